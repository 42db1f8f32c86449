/// SIGKILL at random moments, and full disks: what is resumed ends where the uninterrupted run does, bit for bit.
module Sama.Benchmarks.Faults.Kills

open System
open System.Diagnostics
open System.IO
open System.Threading
open Sama
open Sama.Functional
open Sama.Benchmarks.Faults

let private inFolder (body: string -> 'result) : 'result =
    let folder = Directory.CreateTempSubdirectory "faults-"

    try
        body folder.FullName
    finally
        folder.Delete true

/// The newest checkpoint is whole, and nothing newer was passed over; of a training that is reversed, every state is. True if
/// the process died in a write.
let private requireWhole (subject: string) (folder: string) : bool =
    match Trainings.subject subject with
    | Some problem -> Trainings.requireWhole problem folder |> ignore
    | None ->
        use found = Resume.latest folder (Subjects.find subject)

        if not (isNull found) && found.Skipped.Count > 0 then
            raise (InvalidDataException $"a corrupt checkpoint was left: {found.Skipped[0]}")

    let died = Directory.GetFiles(folder, "*.tmp").Length > 0

    // the next checkpoint removes those of the folder, nobody that of the last file
    for path in Directory.GetFiles(folder, "final*.tmp") do
        File.Delete path

    died

/// Waits for a moment within the time, or from then on for a checkpoint that is being written, and kills. False if the
/// process had ended before.
let private kill (random: Random) (child: Process) (folder: string) (within: TimeSpan) (inWrite: bool) : bool =
    Thread.Sleep(within * random.NextDouble())

    let writes () =
        Directory.EnumerateFiles(folder, "*.tmp") |> Seq.isEmpty |> not

    while inWrite && not child.HasExited && not (writes ()) do
        Thread.SpinWait 50

    let alive = not child.HasExited

    if alive then
        child.Kill()

    child.WaitForExit()
    alive

/// To the end. What a training that is reversed had of states by then, it goes on from.
let private complete (subject: string) (folder: string) : Result<unit, string> =
    let held = Directory.GetFiles(folder, "place-*.safetensors").Length
    Child.finish subject folder |> ignore

    match Trainings.subject subject with
    | Some _ when held > 0 && not (fst (Trainings.report (Child.final folder))) ->
        Error $"{held} states were there, and it began anew"
    | _ -> Ok()

/// One run with so many kills, half of them in the write of a checkpoint: where it ends. A run that ended before it was
/// killed starts anew.
let private survive (random: Random) (subject: string) (duration: TimeSpan) (whole: string) (count: int) folder =
    let mutable killed, writing, attempts = 0, 0, 0
    // the rest of a run gets shorter with every kill, and with every one that came too late
    while killed < count && attempts < 8 * count do
        attempts <- attempts + 1
        let child, _ = Child.start subject folder
        use child = child
        let within = duration * 0.8 / float (count + attempts - killed - 1)

        if kill random child folder within (killed % 2 = 1) then
            killed <- killed + 1

            if requireWhole subject folder then
                writing <- writing + 1
        else
            for path in Directory.GetFiles folder do
                File.Delete path

    complete subject folder
    |> Result.bind (fun () ->
        if killed < count then
            Error $"{killed} kills, {count} were meant"
        elif Bytes.same (Child.final whole) (Child.final folder) then
            Ok $"{killed} kills, {writing} of them in a file's write; the end is the uninterrupted run's, bit for bit"
        else
            Error $"{killed} kills; the end is another than the uninterrupted run's")

/// So many kills, up to four a run. The row of each run: passed if the final state's file is the uninterrupted one's.
let run (random: Random) (subject: string) (kills: int) : Row list =
    inFolder (fun whole ->
        let duration = Child.finish subject whole

        [ for first in 0..4 .. kills - 1 do
              let outcome =
                  try
                      inFolder (survive random subject duration whole (min 4 (kills - first)))
                  with e ->
                      Error e.Message

              { Kind = "kill"
                Case = $"{subject}, run {first / 4 + 1}"
                Passed = outcome.IsOk
                Detail =
                  match outcome with
                  | Ok text
                  | Error text -> text } ])

let private mount (words: string) =
    let info = ProcessStartInfo("mount", RedirectStandardError = true)

    for word in words.Split ' ' do
        info.ArgumentList.Add word

    use mounting = Process.Start info
    mounting.WaitForExit()
    mounting.ExitCode = 0

/// A disk that is full in the midst of the run, then has room again. No row, and a line on the error output, where no file
/// system may be mounted.
let fullDisk (subject: string) : Row list =
    inFolder (fun whole ->
        Child.finish subject whole |> ignore
        let room = FileInfo(Child.final whole).Length * 5L / 2L / 1024L

        inFolder (fun folder ->
            if not (mount $"-t tmpfs -o size={room}k none {folder}") then
                eprintfn "faults: no file system may be mounted here, the case of a full disk is left out"
                []
            else
                try
                    let child, errors = Child.start subject folder
                    use child = child
                    child.WaitForExit()
                    let failed = child.ExitCode <> 0 && errors.Result.Contains "space"
                    requireWhole subject folder |> ignore
                    let kept = (Checkpoints.files folder).Length
                    mount $"-o remount,size={room * 10L}k {folder}" |> ignore
                    Child.finish subject folder |> ignore
                    let same = Bytes.same (Child.final whole) (Child.final folder)

                    [ { Kind = "kill"
                        Case = $"{subject}, full disk"
                        Passed = failed && kept > 0 && same
                        Detail =
                          $"the run ended for want of space: {failed}; whole checkpoints left: {kept}; resumed to the uninterrupted end: {same}" } ]
                finally
                    use unmounting = Process.Start("umount", folder)
                    unmounting.WaitForExit()))
