namespace Sama.DataOptimization

open System

/// A way of training: its name, the trainings it is made of, what it says of a fold's held-out rows, θ by all clean rows.
[<NoComparison; NoEquality>]
type internal Way =
    { Name: string
      Stages: CleanPart -> string list
      HeldOut: Fold -> float[][]
      Train: unit -> float32[] }

/// The ways that candidates are.
module internal Ways =

    let private suffix = ", then clean"

    /// Names: the control, the average of the trainings on the rows to clean, others. Label models are among them where there
    /// are votes.
    let names (votes: bool) : string[] =
        [| "noisy" + suffix
           "average" + suffix
           "noisy"
           "clean only"
           "confident learning" + suffix
           if votes then
               "label model"
               "label model" + suffix
           "SAMA weights"
           "SAMA correction"
           "SAMA weights" + suffix
           "SAMA correction" + suffix
           "average" |]

    /// The trainings on the rows to clean whose parameters are averaged: one that takes the labels as they are, one that leaves
    /// rows out, one that weighs them, one that corrects them (and starts as the label model does).
    let private averaged: string list =
        [ "noisy"; "confident learning"; "SAMA weights"; "SAMA correction" ]

    /// Names of the trainings that ways are made of: the sources, and fine-tuning after them.
    let recipes (names: string[]) : Set<string> =
        Set
            [ for name in names do
                  yield name

                  if name.EndsWith suffix then
                      yield name[.. name.Length - suffix.Length - 1]

                  if name.StartsWith "average" then
                      yield! averaged ]
        |> Set.remove "average"

    let rec private source (recipes: Recipes) (name: string) : Source =
        let ofPart (part: CleanPart) = [ $"{name}, {part.Tag}" ]

        match name with
        | "noisy" ->
            { Name = name
              Stages = fun _ -> [ name ]
              Train = fun _ -> recipes.Noisy() }
        | "confident learning" ->
            { Name = name
              Stages = fun _ -> [ "out of fold"; name ]
              Train = fun _ -> recipes.Confident() }
        | "average" ->
            let parts = averaged |> List.map (source recipes)
            let share = 1.0f / float32 parts.Length

            { Name = name
              Stages = fun part -> parts |> List.collect (fun source -> source.Stages part)
              Train =
                fun part ->
                    parts
                    |> List.map (fun source -> source.Train part)
                    |> List.reduce (Array.map2 (+))
                    |> Array.map (fun sum -> sum * share) }
        | _ ->
            { Name = name
              Stages = ofPart
              Train =
                match name with
                | "clean only" -> recipes.CleanOnly
                | "label model" -> recipes.ByLabelModel
                | "SAMA weights" -> fun part -> (recipes.SamaWeights part).Theta
                | "SAMA correction" -> fun part -> (recipes.SamaCorrection part).Theta
                | other -> invalidOp other }

    let make (recipes: Recipes) (everything: CleanPart) (name: string) : Way =
        if name.EndsWith suffix then
            let source = source recipes (name[.. name.Length - suffix.Length - 1])

            { Name = name
              Stages = fun part -> source.Stages part @ [ $"{name}, {part.Tag}" ]
              HeldOut = fun fold -> recipes.HeldAfterTuning(source, fold)
              Train = fun () -> recipes.Tuned(source, everything) }
        else
            let source = source recipes name

            { Name = name
              Stages = source.Stages
              HeldOut = fun fold -> recipes.Predict(source.Train fold.Part, fold.Held)
              Train = fun () -> source.Train everything }
