namespace Sama.Functional

open System
open System.Collections.Generic
open TorchSharp
open Sama

/// The start of a run on ranks: all have the same problem, and rank 0's state.
module internal RankStart =

    /// What the library calls itself: of two versions, or two builds, ranks do not go together.
    let mutable internal version =
        let library = typeof<Communicator>.Assembly
        $"Sama {library.GetName().Version}, build {library.ManifestModule.ModuleVersionId}"

    /// What the rule makes of a gradient that all ranks have: its options, as far as the first step shows them.
    let private firstUpdate (level: Level) : string =
        Scope.run (fun _ ->
            use _ = torch.no_grad ()

            let vector =
                torch.linspace (-1.0, 1.0, level.Layout.Length, dtype = level.Type, device = level.Device)

            try
                let u, _ = level.Rule.Take (level.Rule.Start vector) (vector * 0.5 + 0.25) vector
                Checksum.ofTensors [ u ]
            with e ->
                e.Message)

    /// Everything in which ranks must be alike, a line each.
    let private description (problem: BilevelProblem) (state: RunState) : string =
        let window (own: LevelState) =
            if isNull own.Window then
                "no open window"
            else
                let steps = String.Join(", ", own.Window.Steps)
                $"a window from step {own.Window.Began} with steps {steps}"

        String.Join(
            "\n",
            [ version
              $"libtorch {NativeSearch.built}, TorchSharp {NativeSearch.binding}"
              for level in problem.Levels do
                  for slice in level.Layout.Slices do
                      let shape = String.Join("x", slice.Shape)
                      $"level '{level.Name}', parameter '{slice.Name}' [{shape}]"
              yield! (string problem).Split '\n'
              for level, own in Seq.zip problem.Levels state.Levels do
                  for line in RuleState.signature "" own.Rule do
                      $"level '{level.Name}', state of its rule {Level.rule level}: {line}"

                  $"level '{level.Name}', its rule {Level.rule level}: a first update of checksum {firstUpdate level}"
                  $"level '{level.Name}': {window own}"

                  if not (isNull own.Kept) then
                      $"level '{level.Name}': a vector that its method kept"
              for name in state.Buffers.Keys do
                  $"buffer '{name}'" ]
        )

    let rec private counts (rule: RuleState) : int64 list =
        rule.Count
        :: [ for part in rule.Parts do
                 yield! counts part ]

    let rec private counted (next: Queue<int64>) (rule: RuleState) : RuleState =
        let count = next.Dequeue()

        { rule with
            Count = count
            Parts = [| for part in rule.Parts -> counted next part |] }

    let private broadcast (ranks: Communicator) (tensor: Tensor) : unit =
        use own = tensor.detach().contiguous ()
        ranks.Broadcast(own, 0).GetAwaiter().GetResult()

        if not (tensor.is_contiguous ()) then
            tensor.copy_ own |> ignore

    let private shared (problem: BilevelProblem) (state: RunState) : RunState =
        Scope.run (fun _ ->
            use _ = torch.no_grad ()
            let ranks = problem.Ranks.Communicator
            ranks.Agree(description problem state)

            let numbers =
                [| state.Step
                   state.Seed
                   for level in state.Levels do
                       yield! counts level.Rule |]

            let common = torch.tensor numbers
            broadcast ranks common
            let numbers = Queue(common.data<int64>().ToArray())
            let step, seed = numbers.Dequeue(), numbers.Dequeue()

            for level in state.Levels do
                broadcast ranks level.Vector

                if not (isNull level.Kept) then
                    broadcast ranks level.Kept

                for tensor in RuleState.tensors level.Rule do
                    broadcast ranks tensor

                if not (isNull level.Window) then
                    broadcast ranks level.Window.Theta

                    for tensor in RuleState.tensors level.Window.Rule do
                        broadcast ranks tensor

            for buffer in state.Buffers.Values do
                broadcast ranks buffer

            { state with
                Step = step
                Seed = seed
                Levels =
                    [| for level in state.Levels ->
                           { level with
                               Rule = counted numbers level.Rule } |] })

    /// A state, and whether it is a copy that is to be freed.
    [<Sealed>]
    type Borrowed(state: RunState, isCopy: bool) =
        member _.State = state

        interface IDisposable with
            member _.Dispose() =
                if isCopy then
                    RunState.dispose state

    /// The state that all ranks start from, rank 0's, in this rank's own tensors. RankFailureException where ranks have
    /// different problems, with the first line that differs.
    let common (problem: BilevelProblem) (own: RunState) : RunState =
        if Across.alone problem then
            own
        else
            problem.Ranks.Communicator.Place <- "the start of a run"

            try
                shared problem own
            with e ->
                raise (Across.settled problem e)

    /// The same, of a state that is not this run's: a copy on ranks.
    let ofCopy (problem: BilevelProblem) (state: RunState) : Borrowed =
        if Across.alone problem then
            new Borrowed(state, false)
        else
            new Borrowed(common problem (RunState.copy state), true)
