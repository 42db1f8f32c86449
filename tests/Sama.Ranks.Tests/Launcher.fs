/// Ranks of this machine, started by a launcher, and what they print.
module Sama.Ranks.Tests.Launcher

open System
open System.Collections.Generic
open System.Diagnostics
open System.IO
open Expecto

type Mpi =
    | OpenMpi
    | Mpich

/// What processes did.
type Ended =
    { Code: int
      Lines: string list
      Seconds: float
      At: DateTimeOffset }

    /// Values of the "name=value" lines of that name.
    member ended.Values(name: string) : string list =
        // a terminal may be told something in front of the first line
        [ for line in ended.Lines do
              let at = line.IndexOf(name + "=", StringComparison.Ordinal)

              if
                  at >= 0
                  && (at = 0 || not (Char.IsLetterOrDigit line[at - 1] || line[at - 1] = '.'))
              then
                  line.Substring(at + name.Length + 1) ]

    member ended.Value(name: string) : string =
        match ended.Values name |> List.distinct with
        | [ one ] -> one
        | other ->
            let text = String.Join("\n", ended.Lines)
            failtest $"'{name}' was said {other.Length} times:\n{text}"

    override ended.ToString() =
        let text = String.Join("\n", ended.Lines)
        $"code {ended.Code} behind {ended.Seconds:F1} s:\n{text}"

let find (names: string list) : string option =
    let folders = (Environment.GetEnvironmentVariable "PATH").Split ':'

    names
    |> List.tryPick (fun name -> folders |> Seq.map (fun f -> Path.Combine(f, name)) |> Seq.tryFind File.Exists)

/// The launcher, or the test is left out by name.
let private launcher (mpi: Mpi) : string =
    let names, package =
        match mpi with
        | OpenMpi -> [ "mpirun.openmpi" ], "openmpi-bin"
        | Mpich -> [ "mpirun.mpich"; "mpiexec.hydra" ], "mpich"

    match find names with
    | Some path -> path
    | None -> skiptest $"no {names.Head} here: apt-get install --no-install-recommends {package}"

let run (file: string) (arguments: string list) (variables: (string * string) list) : Ended =
    let info =
        ProcessStartInfo(file, arguments, RedirectStandardOutput = true, RedirectStandardError = true)

    for name, value in variables do
        info.Environment[name] <- value

    let clock = Stopwatch.StartNew()
    use started = Process.Start info
    let lines = List<string>()

    let read (e: DataReceivedEventArgs) =
        if not (isNull e.Data) then
            lock lines (fun () -> lines.Add e.Data)

    started.OutputDataReceived.Add read
    started.ErrorDataReceived.Add read
    started.BeginOutputReadLine()
    started.BeginErrorReadLine()

    if not (started.WaitForExit 1_200_000) then
        started.Kill true
        let text = lock lines (fun () -> String.Join("\n", lines))
        failtest $"it hangs:\n{text}"

    let at = DateTimeOffset.UtcNow
    // and until what was printed is read
    started.WaitForExit()

    { Code = started.ExitCode
      Lines = lock lines (fun () -> List.ofSeq lines)
      Seconds = clock.Elapsed.TotalSeconds
      At = at }

let private folder = AppContext.BaseDirectory
let private program = Path.Combine(folder, "Sama.Ranks.Tests.dll")

let private environment =
    [ "OMPI_ALLOW_RUN_AS_ROOT", "1"
      "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"
      "OMPI_MCA_mpi_yield_when_idle", "0"
      "OMP_NUM_THREADS", "1"
      "TERM", "dumb" ]

let private ofOpenMpi = [ "--oversubscribe"; "--bind-to"; "none" ]

/// A program of .NET on so many ranks.
let private launched (variables: (string * string) list) (mpi: Mpi) (count: int) (command: string list) : Ended =
    let own =
        match mpi with
        | OpenMpi -> ofOpenMpi
        | Mpich -> []

    run (launcher mpi) ([ "-n"; string count ] @ own @ [ "dotnet" ] @ command) (environment @ variables)

/// A case on so many ranks.
let ranksWith variables mpi count (case: string list) : Ended =
    launched variables mpi count ([ program; "case" ] @ case)

let ranks mpi count case = ranksWith [] mpi count case

/// A case on two ranks, of which the second believes that it is on a host of another name; left out by name without the right
/// to rename one.
let onTwoHosts (case: string list) : Ended =
    let renamed =
        [ "unshare"; "--uts"; "sh"; "-c"; "hostname other-host && exec \"$@\""; "sh" ]

    let may =
        try
            (run renamed.Head (renamed.Tail @ [ "true" ]) []).Code = 0
        with :? ComponentModel.Win32Exception ->
            false

    if not may then
        skiptest "no second name for this host here: it needs root, unshare (util-linux) and hostname"

    let command = [ "dotnet"; program; "case" ] @ case

    run (launcher OpenMpi) (ofOpenMpi @ [ "-n"; "1" ] @ command @ [ ":"; "-n"; "1" ] @ renamed @ command) environment

/// The tool `sama` on so many ranks.
let tool mpi count (arguments: string list) : Ended =
    launched [] mpi count (Path.Combine(folder, "sama.dll") :: arguments)

/// A case without a launcher.
let alone (variables: (string * string) list) (case: string list) : Ended =
    run "dotnet" ([ program; "case" ] @ case) ([ "OMP_NUM_THREADS", "1"; "TERM", "dumb" ] @ variables)

let succeeded (ended: Ended) : Ended =
    Expect.equal ended.Code 0 (string ended)
    ended
