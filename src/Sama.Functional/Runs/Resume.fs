namespace Sama

open System
open System.Collections.Generic

/// A state that was found in a folder. Whoever holds it disposes it, which frees the state.
[<Sealed; AllowNullLiteral>]
type Resumed internal (state: RunState, info: CheckpointInfo, skipped: string list) =
    /// The state.
    member _.State = state

    /// What its file says beside its tensors.
    member _.Info = info

    /// What was wrong with each newer file that was passed over.
    member _.Skipped: IReadOnlyList<string> = skipped

    interface IDisposable with
        member _.Dispose() = state.Dispose()

namespace Sama.Functional

open System
open System.Collections.Generic
open System.Globalization
open System.IO
open System.Text.RegularExpressions
open Sama

/// A folder of one run's checkpoints: the last ones, named by their steps, and the best one.
module Checkpoints =

    let private name = Regex @"^step-(\d{12,19})\.safetensors$"

    let private temporary =
        Regex @"^(step-\d{12,19}|best)\.safetensors\.[0-9a-f]{32}\.tmp$"

    let private named (pattern: Regex) (folder: string) =
        if Directory.Exists folder then
            [ for path in Directory.EnumerateFiles folder do
                  let m = pattern.Match(Path.GetFileName path)

                  if m.Success then
                      path, m ]
        else
            []

    /// The files of steps, the newest first; empty for a folder that is not there.
    let files (folder: string) : string list =
        named name folder
        |> List.sortByDescending (fun (_, m) -> Int64.Parse(m.Groups[1].Value, CultureInfo.InvariantCulture))
        |> List.map fst

    /// Where the best state of a folder lies.
    let best (folder: string) : string =
        Path.Combine(folder, "best.safetensors")

    /// Where the checkpoint of a step lies.
    let internal pathOf (folder: string) (step: int64) : string =
        let step = step.ToString("D12", CultureInfo.InvariantCulture)
        Path.Combine(folder, $"step-{step}.safetensors")

    let private into (folder: string) (file: string) notes state =
        Directory.CreateDirectory folder |> ignore

        // what a process that was killed while it wrote has left; one run at a time has the folder
        for path, _ in named temporary folder do
            File.Delete path

        let path = Path.Combine(folder, file)
        Checkpoint.saveWith notes path state
        path

    /// Writes a state under the name of its step, and removes all but the newest `keep` of that kind, once it is whole. The
    /// folder is made if it is not there. ArgumentException for keep below 1, else as Checkpoint.saveWith.
    let save (keep: int) (folder: string) (notes: IReadOnlyDictionary<string, string>) (state: RunState) : string =
        if keep < 1 then
            invalidArg (nameof keep) $"{keep} checkpoints are to be kept; at least 1 is needed"

        let path = into folder (Path.GetFileName(pathOf folder state.Step)) notes state

        for old in files folder |> List.filter ((<>) path) |> List.indexed do
            if fst old >= keep - 1 then
                File.Delete(snd old)

        path

    /// Writes a state over the best one.
    let saveBest (folder: string) (notes: IReadOnlyDictionary<string, string>) (state: RunState) : string =
        into folder "best.safetensors" notes state

/// Going on where a run has ended.
module Resume =

    /// The newest state of the folder that is whole, with what was wrong with newer ones; null if the folder has none or is
    /// not there. InvalidDataException if it has some and all are damaged; ArgumentException for another problem's, and
    /// InvalidOperationException, as Checkpoint.load. On ranks, all of which call it and see one folder: RankFailureException
    /// where they find different ones.
    let latest (folder: string) (problem: BilevelProblem) : Resumed =
        let rec find skipped paths =
            match paths with
            | [] when List.isEmpty skipped -> null
            | [] ->
                let reasons = String.Join("; ", List.rev skipped)
                raise (InvalidDataException $"no checkpoint in '{folder}' is whole: {reasons}")
            | path :: older ->
                try
                    new Resumed(Checkpoint.load problem path, Checkpoint.info path, List.rev skipped)
                with :? InvalidDataException as e ->
                    find (e.Message :: skipped) older

        let mutable found: Resumed = null

        Across.guarded problem "a search for checkpoints" (fun () ->
            found <- find [] (Checkpoints.files folder)
            let shown = if isNull found then "none" else $"step {found.State.Step}"
            Across.agree problem $"the newest checkpoint of '{folder}', which all ranks have to see: {shown}")

        found
