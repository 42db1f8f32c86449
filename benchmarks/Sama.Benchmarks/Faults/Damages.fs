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
              let kind, change = kinds[i % kinds.Length]
              let mutable changed = change random bytes

              while changed.AsSpan().SequenceEqual(ReadOnlySpan bytes) do
                  changed <- change random bytes

              File.WriteAllBytes(newest, changed)
              let outcome = judge problem folder newest 2L

              { Kind = "damage"
                Case = $"{kind}, {i + 1}"
                Passed = outcome.IsOk
                Detail =
                  match outcome with
                  | Ok text
                  | Error text -> text.Replace(folder + "/", "") } ]
    finally
        Directory.Delete(folder, true)
