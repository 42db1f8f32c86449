namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Options of levels' rules that the levels above give: u(θ; λ) depends on λ by them too.
module internal LearnedOptions =

    /// Where an option of level i's rule comes from. ArgumentException, when a problem is composed, if there is no such level
    /// above it, or none is named and there are several.
    let source (problem: BilevelProblem) (i: int) (learned: Learned) : int =
        let level = problem.Levels[i]

        let refuse reason =
            invalidArg
                "rule"
                $"level '{level.Name}': option {learned.Option} of its rule '{level.Update.Name}' is learned from {reason}"

        let names indices =
            String.Join(", ", [ for j in indices -> $"'{problem.Levels[j].Name}'" ])

        let above = Structure.above problem i

        match learned.Level with
        | null ->
            let height = problem.Heights[i] + 1

            match above |> List.filter (fun j -> problem.Heights[j] = height) with
            | [ one ] -> one
            | [] -> refuse "the level above it, and there is none"
            | several -> refuse $"the level above it, of which there are {names several}: name one of them"
        | name ->
            match above |> List.tryFind (fun j -> problem.Levels[j].Name = name) with
            | Some j -> j
            | None -> refuse $"a level '{name}', which is not above it; above it there are: {names above}"

    let any (problem: BilevelProblem) (i: int) : bool =
        not problem.Levels[i].Rule.Learned.IsEmpty

    /// One value: 0-D in float64, or the level's own type.
    let private value (problem: BilevelProblem) i (parameters: int -> Params) (learned: Learned) : Tensor =
        let level = problem.Levels[i]

        let refuse (what: string) (e: exn) =
            raise (
                InvalidOperationException(
                    $"level '{level.Name}': the function that gives option {learned.Option} of its rule '{level.Update.Name}' {what}",
                    e
                )
            )

        let given =
            try
                learned.Value(parameters (source problem i learned))
            with e ->
                refuse $"failed: {(e.Message.Split '\n')[0]}" e

        if isNull given || given.IsInvalid then
            refuse "gave no tensor, or one that is disposed" null
        elif not (torch.is_floating_point given) then
            refuse $"gave a tensor of {given.dtype}, which has no derivative" null
        elif given.numel () = 1L then
            (given.reshape [||]).to_type torch.float64
        else
            (given.reshape -1L).to_type level.Type

    let private at (problem: BilevelProblem) i parameters : BoundRule =
        let level = problem.Levels[i]
        let values = level.Rule.Learned |> List.map (value problem i parameters)

        try
            BoundRule.at values level.Rule
        with :? ArgumentException as e ->
            raise (
                InvalidOperationException(
                    $"level '{level.Name}': {e.Message}. A learned option stays in range by its function's own form (an exp, a sigmoid)",
                    e
                )
            )

    /// The rule of level i where all levels are at these vectors; what it holds is the caller's scope's.
    let rule (problem: BilevelProblem) (i: int) (vectors: Tensor[]) : BoundRule =
        if any problem i then
            use _ = torch.no_grad ()
            at problem i (fun j -> Params.frozen problem.Levels[j].Layout vectors[j])
        else
            RankRules.rule problem problem.Levels[i]

    /// The same with its options in the graph of the vectors of `upper`, joined in `lambda`.
    let inGraph (problem: BilevelProblem) i (vectors: Tensor[]) (upper: int list) (parts: Tensor[]) : BoundRule =
        let own = List.zip upper (List.ofArray parts)

        at problem i (fun j ->
            let layout = problem.Levels[j].Layout

            match own |> List.tryFind (fun (k, _) -> k = j) with
            | Some(_, vector) -> Params.traced layout vector
            | None -> Params.frozen layout vectors[j])

    /// For each level, which of its parameters the options of level i's rule depend on.
    let reached (problem: BilevelProblem) (i: int) (vectors: Tensor[]) : bool[][] =
        Scope.run (fun _ ->
            let parameters =
                Array.map2 (fun (level: Level) v -> Params.probe level.Layout v) problem.Levels vectors

            for learned in problem.Levels[i].Rule.Learned do
                let value = value problem i (fun j -> parameters[j]) learned

                if value.requires_grad then
                    Autodiff.backward
                        (value.sum ())
                        [| for own in parameters do
                               yield! own.Views |]

            [| for own in parameters -> own.Views |> Array.map (fun view -> not (isNull view.grad)) |])
