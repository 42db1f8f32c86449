namespace Sama.Functional

open System
open System.Runtime.InteropServices
open System.Threading
open TorchSharp
open Sama

/// What a step is checked for, and what is said about it.
module internal Checks =

    /// NonFiniteException naming the level and the first parameter that has an entry that is not finite.
    let notFinite step (level: Level) (what: string) (vector: Tensor) : unit =
        let culprit =
            Scope.run (fun _ ->
                let bad (part: Tensor) = not (Number.isFinite part)
                Layout.views level.Layout vector |> Array.tryFindIndex bad)

        let where =
            match culprit with
            | Some i -> $" of parameter '{level.Layout.Slices[i].Name}'"
            | None -> ""

        raise (NonFiniteException(step, level.Name, what + where))

    /// The step is finite: u and the rule's next state, which an infinite gradient makes infinite too.
    let sound (readings: Readings) step (run: LevelRun) : unit =
        readings.Holds(
            run.Sound(),
            fun () ->
                Scope.run (fun _ ->
                    if not (Number.isFinite run.Gradient) then
                        notFinite step run.Level "the gradient" run.Gradient

                    let u, _ = run.Bound.Take run.Rule run.Gradient run.Vector

                    if not (Number.isFinite u) then
                        notFinite step run.Level "the update" u

                    raise (NonFiniteException(step, run.Level.Name, "the state of the rule behind the update")))
        )

    /// libtorch's errors of a step in words of the library's own, others as they are; their `Data` has "Sama.Step".
    let explained (step: int64) (e: exn) : exn =
        e.Data["Sama.Step"] <- step

        match e with
        | :? ExternalException ->
            let reason = (e.Message.Split '\n')[0]

            let help =
                if reason.Contains "out of memory" || reason.Contains "can't allocate memory" then
                    ". Smaller batches (with Accumulate), or Precision.BFloat16, need less"
                elif reason.Contains "derivative for" then
                    ". An operator of the loss has no second derivative (fused attention): take products by differences (Hypergradient.withProducts ProductForm.Differences), a first-order method (sama) or the plain operator"
                else
                    ""

            InvalidOperationException($"step {step}: libtorch failed in the derivative of a loss: {reason}{help}", e)
        | _ -> e

    /// A loss, when it is known: the mean over the ranks.
    let loss (readings: Readings) step (level: Level) (value: Tensor) : float ref =
        let known = ref nan

        readings.Shared(
            value,
            fun byRank ->
                let value = Array.average byRank

                if not (Double.IsFinite value) then
                    raise (NonFiniteException(step, level.Name, "the loss"))

                known.Value <- value
        )

        known

    /// InvalidOperationException if a step taken again on the same batch, masks and stop-features has another gradient, by
    /// the level's own vector or by those above it: then differences of passes are noise divided by ε. `gradient` is that
    /// of the step itself, null where it is not the loss's; the level's own gradient is formed in `scratch`.
    let replay
        (problem: BilevelProblem)
        (index: int)
        (vectors: Tensor[])
        (gradient: Tensor)
        (scratch: Tensor)
        (micros: Micro list)
        : unit =
        // of ε = α/‖v‖, what is left in h is this much divided by α
        let tolerance =
            match vectors[index].dtype with
            | torch.ScalarType.Float64 -> 1e-10
            | torch.ScalarType.Float32 -> 1e-5
            | _ -> 1e-2

        let pass (wanted: (int * Tensor) list) =
            let gradients = Array.create vectors.Length null

            for i, slot in wanted do
                gradients[i] <- slot

            Passes.accumulate problem (Problem.precision problem) micros Mode.Perturbed vectors gradients

        /// `again` becomes the difference
        let same (again: Tensor) (before: Tensor) =
            let difference =
                Method.relative (Method.size (again.sub_ before)) (Method.size before)

            if difference > tolerance then
                invalidOp
                    $"level '{problem.Levels[index].Name}': its loss gives another gradient when the same pass is run again (it differs by {difference:G2} of its length), so hypergradients of it would be noise. Random numbers of its own (System.Random, a generator made outside) are drawn anew in every pass: seed them with pass.Draw.RandomSeed, or draw them in the data. Nor may a loss count its calls or write into its batch"

        let above () =
            [ for i in Structure.above problem index -> i, torch.zeros_like vectors[i] ]

        Scope.run (fun _ ->
            let upper = above ()
            let own = scratch.zero_ ()
            pass ((index, own) :: upper)
            // where the step's own is at hand it is the one before, and λ's alone is formed again
            let before = if isNull gradient then own.clone () else gradient
            let again = above ()

            if isNull gradient then
                pass ((index, own.zero_ ()) :: again)
            else
                pass again

            same own before

            for (_, again), (_, before) in List.zip again upper do
                same again before)

    /// Whether this meta step's passes are run again: the 1st, 2nd, 4th, 8th, … of a problem.
    let replays (problem: BilevelProblem) : bool =
        let count = Interlocked.Increment(&problem.Replays.contents)
        count &&& (count - 1L) = 0L

    let private names (problem: BilevelProblem) (indices: int seq) =
        String.Join(" and ", [ for i in indices -> $"'{problem.Levels[i].Name}'" ])

    /// What makes h exactly 0.
    type Stillness =
        /// the loss above sees no parameter of any level
        | Blind of string
        /// no loss depends on the level's parameters
        | Unconnected of string
        /// the adaptation is 0 wherever the meta gradient is not
        | Dead of string
        /// it is what the numbers are
        | Exact of string

    /// Why the hypergradient of level j is exactly 0, by looking at what its loss and those below depend on; a level is stuck
    /// if its gradient is 0 everywhere, and what the meta gradient becomes of its adaptation.
    let still
        (problem: BilevelProblem)
        (j: int)
        (seen: Tensor[])
        (micros: int -> Micro list)
        (below: int list)
        (isStuck: int -> bool)
        : Stillness =
        let name = problem.Levels[j].Name
        let byLoss = Problem.reached problem seen (micros j).Head
        let any (flags: bool[]) = Array.exists id flags

        if not (byLoss |> Array.exists any) then
            Blind
                $"the loss of level '{name}' sees no parameter of any level: is it computed on a copy of the model, on detached values, or a count such as an accuracy?"
        else
            let steered =
                below
                |> List.exists (fun k ->
                    any (Problem.reached problem seen (micros k).Head).[j]
                    || any (LearnedOptions.reached problem k seen).[j])

            if not (any byLoss[j]) && not steered then
                Unconnected
                    $"no loss depends on the parameters of level '{name}' at this batch: neither its own nor that of {names problem below}"
            else
                let stuck = below |> List.filter isStuck

                if stuck.IsEmpty || any byLoss[j] then
                    Exact $"the hypergradient of level '{name}' is exactly 0"
                else
                    Dead
                        $"every gradient of level {names problem stuck} is 0 (all weights of examples 0?), and its rule's adaptation of a coordinate that never saw a gradient is 0"
