/// Results: a table for people, json for programs.
module NoisyText.Report

open System
open System.IO
open System.Text.Json
open Spectre.Console
open NoisyText.Statistics

type MethodResult =
    { Method: string
      Accuracy: float list
      Auroc: float list
      Seconds: float
      PeakResidentBytes: int64 }

/// The process's high-water mark so far.
let peakResidentBytes () : int64 =
    let line =
        if File.Exists "/proc/self/status" then
            File.ReadLines "/proc/self/status" |> Seq.tryFind _.StartsWith("VmHWM:")
        else
            None

    match line with
    | Some line ->
        int64 (line.Split([| ' '; '\t' |], StringSplitOptions.RemoveEmptyEntries)[1])
        * 1024L
    | None -> Diagnostics.Process.GetCurrentProcess().PeakWorkingSet64

let private spread (values: float list) =
    match values with
    | [] -> ""
    | [ one ] -> $"{one:F3}"
    | many ->
        let mean = List.average many

        let variance =
            (many |> List.sumBy (fun x -> (x - mean) ** 2.0)) / float (many.Length - 1)

        $"{mean:F3} ± {sqrt variance:F3}"

let print (title: string) (measure: string) (results: MethodResult list) (gain: Interval) : unit =
    let table = Table()
    table.Title <- TableTitle title

    for column in [ "method"; measure; "AUROC of weights"; "seconds"; "peak MB" ] do
        table.AddColumn column |> ignore

    for r in results do
        table.AddRow(
            r.Method,
            spread r.Accuracy,
            spread r.Auroc,
            $"{r.Seconds:F1}",
            $"{r.PeakResidentBytes / 1_000_000L}"
        )
        |> ignore

    AnsiConsole.Write table

    let points (share: float) =
        (100.0 * share).ToString "+0.0;-0.0;0.0"

    printfn
        $"thenMeta - noisyThenMeta: {points gain.Mean} points, 95 %% interval {points gain.Low} to {points gain.High}"

/// Written beside its place and moved there, so that no half-written report is left.
let write (path: string) data (seeds: int list) (chosen: string) (results: MethodResult list) (gain: Interval) : unit =
    let value =
        {| data = data
           seeds = seeds
           chosen = chosen
           methods =
            [ for r in results ->
                  {| method = r.Method
                     accuracy = r.Accuracy
                     auroc = r.Auroc
                     seconds = r.Seconds
                     peakResidentBytes = r.PeakResidentBytes |} ]
           gainOfThenMeta =
            {| mean = gain.Mean
               low = gain.Low
               high = gain.High |} |}

    let temporary = path + ".part"
    File.WriteAllText(temporary, JsonSerializer.Serialize(value, JsonSerializerOptions(WriteIndented = true)))
    File.Move(temporary, path, true)
