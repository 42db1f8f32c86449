/// The example's tables, stopped and gone on with.
module Sama.DataPruning.Tests.ExampleTests

open System
open System.Diagnostics
open System.IO
open System.Threading
open Expecto
open Sama.DataPruning.Tests.Files

let private start (arguments: string list) : Process =
    let library = Path.Combine(AppContext.BaseDirectory, "DataPruning.dll")

    ProcessStartInfo("dotnet", library :: arguments, RedirectStandardOutput = true, RedirectStandardError = true)
    |> Process.Start

let private ended (running: Process) =
    let said = running.StandardError.ReadToEndAsync()
    let printed = running.StandardOutput.ReadToEnd()
    running.WaitForExit()
    running.ExitCode, printed, said.Result

let tests =
    testList
        "example"
        [ testCase "Ctrl+C stops it between two steps with 130; the same command goes on where it was"
          <| fun _ ->
              withFolder (fun folder ->
                  let report = Path.Combine(folder, "report.json")

                  let arguments =
                      [ "--quick"
                        "--tables"
                        "methods"
                        "--methods"
                        "sama,aum,infobatch,judged-sama"
                        "--shares"
                        "50"
                        "--report"
                        report ]

                  let state = report + ".state"

                  let stages () =
                      if Directory.Exists state then
                          Directory.GetFiles(state, "*.f32", SearchOption.AllDirectories)
                      else
                          [||]

                  let stopped = start arguments

                  while (stages ()).Length < 2 && not stopped.HasExited do
                      Thread.Sleep 20

                  use signal = Process.Start("kill", [ "-INT"; string stopped.Id ])
                  let code, _, said = ended stopped
                  Expect.equal code 130 $"stopped: {said}"
                  Expect.stringContains said "the same command goes on from here" "what to do"
                  Expect.isFalse (File.Exists report) "no half cell"
                  let before = [ for file in stages () -> file, File.GetLastWriteTimeUtc file ]
                  Expect.isNonEmpty before "trained so far"
                  let code, printed, said = ended (start arguments)
                  Expect.equal code 0 said
                  Expect.stringContains printed "judged-sama" "table"
                  Expect.equal (File.ReadAllLines report).Length 2 "two cells"

                  for file, written in before do
                      Expect.equal (File.GetLastWriteTimeUtc file) written "not trained twice"

                  let code, _, said = ended (start [ "--methods"; "nothing" ])
                  Expect.equal code 2 "a mistake"
                  Expect.stringContains said "--methods nothing" "named") ]
