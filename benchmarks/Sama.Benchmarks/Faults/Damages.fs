/// Damaged checkpoint files: each is refused with its name, and the previous one found.
module Sama.Benchmarks.Faults.Damages

open System
open System.IO
open System.Text
open System.Threading
open Sama
open Sama.Functional
open Sama.Benchmarks.Faults

let private page = 4096

let private replaced (bytes: byte[]) (a: string) (b: string) =
    Encoding.Latin1.GetBytes((Encoding.Latin1.GetString bytes).Replace(a, b))

/// name, how it changes the bytes. What would change nothing is drawn again.
let private kinds: (string * (Random -> byte[] -> byte[])) list =
    [ "cut", (fun random bytes -> bytes[.. random.Next bytes.Length - 1])
      "flipped",
      (fun random bytes ->
          let changed = Array.copy bytes
          let at = random.Next bytes.Length
          changed[at] <- changed[at] ^^^ (1uy <<< random.Next 8)
          changed)
      "zero page",
      (fun random bytes ->
          let changed = Array.copy bytes
          let at = random.Next((bytes.Length + page - 1) / page) * page
          Array.Clear(changed, at, min page (bytes.Length - at))
          changed)
      "noise",
      (fun random bytes ->
          let changed = Array.copy bytes
          let at = random.Next(bytes.Length - 64)
          random.NextBytes(Span(changed, at, 64))
          changed)
      "foreign",
      (fun random bytes ->
          match random.Next 3 with
          | 0 -> Encoding.UTF8.GetBytes "not a checkpoint at all"
          | 1 -> Array.append bytes bytes
          | _ -> replaced bytes "sama.state" "soma.state")
      "newer", (fun random bytes -> replaced bytes "\"sama.format\":\"1\"" $"\"sama.format\":\"{random.Next(2, 9)}\"") ]

let private judge
    (problem: BilevelProblem)
    (folder: string)
    (newest: string)
    (previous: int64)
    : Result<string, string> =
    try
        let loaded = Checkpoint.load problem newest
        loaded.Dispose()
        Error "it was loaded"
    with
    | :? InvalidDataException as e when e.Message.Contains newest ->
        try
            use found = Resume.latest folder problem

            if found.State.Step = previous && found.Skipped.Count = 1 then
                Ok e.Message
            else
                Error $"step {found.State.Step} was taken, not {previous}"
        with other ->
            Error $"the previous one was not found: {other.Message}"
    | e -> Error $"{e.GetType().Name}: {e.Message}"

/// Other bytes, by the kinds in turn.
let private damage (random: Random) kinds (i: int) (bytes: byte[]) : string * byte[] =
    let kind, change = List.item (i % List.length kinds) kinds
    let mutable changed: byte[] = change random bytes

    while changed.AsSpan().SequenceEqual(ReadOnlySpan bytes) do
        changed <- change random bytes

    kind, changed

let private row (folder: string) case (outcome: Result<string, string>) : Row =
    { Kind = "damage"
      Case = case
      Passed = outcome.IsOk
      Detail =
        match outcome with
        | Ok text
        | Error text -> text.Replace(folder + "/", "") }

/// So many damages of the newest of two checkpoints.
let run (random: Random) (count: int) : Row list =
    let folder = Directory.CreateTempSubdirectory("damages-").FullName

    try
        let problem = Subjects.find "sama, adam"

        use guarded =
            GuardedRun.FromSeed(
                problem,
                7L,
                { GuardOptions.Default with
                    Folder = folder
                    Every = 2L
                    Keep = 2 }
            )

        guarded.RunTo(4L, CancellationToken.None)
        let newest = (Checkpoints.files folder).Head
        let bytes = File.ReadAllBytes newest

        [ for i in 0 .. count - 1 do
              let kind, changed = damage random kinds i bytes
              File.WriteAllBytes(newest, changed)
              row folder $"{kind}, {i + 1}" (judge problem folder newest 2L) ]
    finally
        Directory.Delete(folder, true)

/// The states of a metagradient whose process was killed on its way back; the files that an uninterrupted one leaves.
let private brokenOff (subject: string) (folder: string) (whole: string) =
    Child.finish subject whole |> ignore
    let child, _ = Child.start subject folder
    use child = child

    let held () =
        File.Exists(Path.Combine(folder, "found.safetensors"))
        && Directory.GetFiles(folder, "place-*.safetensors").Length > 1

    while not (held ()) && not child.HasExited do
        Thread.SpinWait 50

    child.Kill()
    child.WaitForExit()

    for path in Directory.GetFiles(folder, "*.tmp") do
        File.Delete path

    if not (held ()) then
        raise (InvalidOperationException "it was killed too late: no states are left")

/// The damage is named with its file, and without the file the end is that of the uninterrupted one.
let private judgeTraining
    (subject: string)
    (folder: string)
    (damaged: string)
    (whole: string)
    : Result<string, string> =
    let problem = (Trainings.subject subject).Value

    let find () =
        Trainings.find problem folder ignore (Child.final folder)

    try
        find ()
        Error "it was not noticed"
    with
    | :? InvalidDataException as e when e.Message.Contains damaged ->
        File.Delete damaged
        find ()

        if Bytes.same (Child.final whole) (Child.final folder) then
            Ok e.Message
        else
            Error "without the file the end is another"
    | e -> Error $"{e.GetType().Name}: {e.Message}"

/// So many damages of the states of a metagradient that was broken off.
let ofTrainings (random: Random) (count: int) : Row list =
    let folder = Directory.CreateTempSubdirectory("damages-").FullName

    let at name =
        (Directory.CreateDirectory(Path.Combine(folder, name))).FullName

    let states, whole, own = at "states", at "whole", at "own"

    try
        let subject = Trainings.all.Head
        brokenOff subject states whole
        let files = Directory.GetFiles states |> Array.sort

        [ for i in 0 .. count - 1 do
              for path in Directory.GetFiles own do
                  File.Delete path

              for path in files do
                  File.Copy(path, Path.Combine(own, Path.GetFileName path))

              let name = Path.GetFileName files[i % files.Length]
              let damaged = Path.Combine(own, name)

              let kinds =
                  if name.StartsWith "place" then
                      kinds
                  else
                      // a format is a checkpoint's
                      kinds |> List.filter (fun (kind, _) -> kind <> "newer")

              let kind, changed =
                  damage random kinds (i / files.Length) (File.ReadAllBytes damaged)

              File.WriteAllBytes(damaged, changed)
              row own $"metagradient's {name}, {kind}, {i + 1}" (judgeTraining subject own damaged whole) ]
    finally
        Directory.Delete(folder, true)
