namespace Sama

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open Sama.DataOptimization

/// A result in a report: of what setting, its name, and what was found.
type ResultEntry<'found> =
    { Setting: string
      Name: string
      Found: 'found }

/// Experiments of many results, each of which takes its time.
[<AbstractClass; Sealed>]
type Results =

    /// DirectoryNotFoundException unless a file can be made there, asked before hours are spent; null asks for none.
    static member RequireFolder(path: string) : unit =
        if not (isNull path) then
            Report.requireFolder path

    /// For work of stages, whose progress is a result's share.
    static member Watched(watch: Action<float>) : IProgress<StageProgress> =
        { new IProgress<StageProgress> with
            member _.Report at = watch.Invoke at.Share }

    /// Makes what is asked for, name by name, but for what the report has; each result is in the report once it is made, so
    /// that the same call goes on behind the last one. `show` gets the results asked for that there are, if any, in the order asked,
    /// also where something ends the work before its end. `report` may be null; a live line shows how far it is, to which each
    /// result tells its share from 0 to 1. Of ranks that do the same work together, the first writes and shows. ArgumentException for a report of another setting, DirectoryNotFoundException
    /// where it cannot be made, InvalidDataException for one that is none.
    static member Complete<'found>
        (
            report: string,
            setting: string,
            asked: IReadOnlyList<struct (string * Func<Action<float>, 'found>)>,
            show: Action<IReadOnlyList<'found>>,
            [<Optional; DefaultParameterValue(0)>] rank: int
        ) : unit =
        Results.RequireFolder report

        let mutable known: ResultEntry<'found> list =
            if isNull report then [] else Report.read report

        for entry in known do
            if entry.Setting <> setting then
                raise (
                    ArgumentException
                        $"--report {report} is of '{entry.Setting}', not of '{setting}': name another file"
                )

        let find name =
            known |> List.tryFind (fun entry -> entry.Name = name)

        try
            use line = if rank = 0 then new LiveLine "reading" else null

            for number, struct (name, make) in Seq.indexed asked do
                if (find name).IsNone then
                    let watch share =
                        if rank = 0 then
                            line.At((float number + share) / float asked.Count, name)

                    let entry =
                        { Setting = setting
                          Name = name
                          Found = make.Invoke(Action<float> watch) }

                    known <- known @ [ entry ]

                    if rank = 0 && not (isNull report) then
                        Report.write report known
        finally
            let found =
                [| for struct (name, _) in asked do
                       yield! find name |> Option.map _.Found |> Option.toList |]

            if rank = 0 && found.Length > 0 then
                show.Invoke found
