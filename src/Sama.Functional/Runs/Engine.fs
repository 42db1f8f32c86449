namespace Sama.Functional

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open System.Threading
open TorchSharp
open Sama

/// The hypergradient that one base step found for a level: in that level's gradient vector.
[<NoComparison; NoEquality>]
type internal Found =
    { Index: int
      Loss: float ref
      Responses: (int * Response) list }

/// A run in place: the state's tensors are its own and are overwritten by steps. Everything else that steps are made of
/// (`Bilevel.step`, `BilevelRun`, the diagnostics) is this. It points the problem's modules at its vectors and loads the
/// state's buffers into them; `Scope` of use: one thread.
///
/// A base step evaluates everything first and writes last: a step that fails has changed nothing, buffers included.
[<Sealed>]
type internal Engine(problem: BilevelProblem, initial: RunState, lasting: bool) =
    let levels =
        Array.map2 (fun level own -> LevelRun(level, own)) problem.Levels (Array.ofSeq initial.Levels)

    let count = levels.Length
    let live = levels |> Array.map _.Vector
    let top = problem.Tiers.Length - 1
    let buffers () = Problem.buffers problem
    let mutable step = initial.Step
    let mutable seed = initial.Seed
    // a run of one call puts the modules back as they were
    let owner = if lasting then Some(BufferOwner problem) else None
    let claim () = owner |> Option.iter _.Claim()

    // how often in a row, from the start, a level's h was 0 for one reason; what no gradient has ever moved
    let stillFor = Array.zeroCreate<int> count

    let untouched =
        [| for level in problem.Levels -> HashSet [ for slice in level.Layout.Slices -> slice.Name ] |]

    let hypersteps = Array.zeroCreate<int> count

    let rebind () =
        Scope.run (fun _ ->
            Problem.bind problem [| for level in levels -> Params.probe level.Level.Layout level.Vector |])

    do
        claim ()
        Buffers.load [ for b in initial.Buffers -> b.Key, b.Value ] (buffers ())
        rebind ()

    let lowest =
        [ for i in 0 .. count - 1 do
              if problem.Heights[i] = 0 then
                  i ]

    /// A window of a lowest level whose method looks back begins at this step.
    let begins i =
        let back, window = Problem.lookback problem i, problem.Tiers[1].Period
        let inside = step % window

        back > 0L
        && inside = window - back
        && Problem.due problem 1 (step - inside + window - 1L)

    /// Lowest levels that start every window anew do, where the levels above say; how to undo it, and to be done with it.
    let reset () =
        [ for i in lowest do
              match levels[i].Level.Reset with
              | Some start when
                  step % problem.Tiers[1].Period = problem.Tiers[1].Period
                                                   - int64 (
                                                       levels[i].Level.Steps
                                                       |> Option.defaultValue (int problem.Tiers[1].Period)
                                                   )
                  ->
                  let seen = Levels(problem.LevelNames, [| for level in levels -> level.Parameters |])

                  levels[i]
                      .Reset(
                          use _ = torch.no_grad ()
                          let vector = start seen

                          if isNull vector || vector.numel () <> levels[i].Vector.numel () then
                              let given =
                                  if isNull vector then
                                      "null"
                                  else
                                      $"{vector.numel ()} numbers"

                              invalidOp
                                  $"level '{levels[i].Level.Name}' is to start anew at {given}; it has {levels[i].Vector.numel ()}"

                          vector
                      )
              | _ -> () ]

    /// What is wrong with a level's loss gradient in its adapted form may be its rule.
    let metaGradient k =
        if List.contains Adaptation (Problem.methodOf problem k).Needs then
            $"the meta gradient, adapted by rule '{levels[k].Level.Update.Name}',"
        else
            "the meta gradient"

    /// The gradient of a lowest level at its batches, into its gradient vector; and by λ where the method asks for it.
    let basePass readings i (micros: Micro list) : Tensor * float ref =
        let run = levels[i]
        run.Gradient.zero_ () |> ignore
        let gradients = Array.create count null
        gradients[i] <- run.Gradient
        let upper = Problem.above problem i

        let wanted =
            List.contains BaseLambdaGradient (Problem.methodOf problem i).Needs
            && Problem.due problem 1 step

        if wanted then
            for j in upper do
                gradients[j] <- torch.zeros_like live[j]

        let share = 1.0 / float micros.Length

        let losses =
            [ for micro in micros ->
                  // the graph dies here, before anything else needs memory
                  Scope.tensor (fun () ->
                      (Passes.gradient
                          problem
                          (Problem.precision problem)
                          live
                          gradients
                          share
                          (micro.Loss Mode.Base >> Autodiff.requireLoss run.Level.Name))
                          .to_type
                          torch.float64) ]

        let loss =
            Checks.loss readings step run.Level ((torch.stack (List.toArray losses)).mean ())

        Checks.finite readings step run.Level "the gradient" run.Gradient
        Checks.sound readings step run

        let lambdaGradient =
            if wanted then
                Passes.joined [| for j in upper -> gradients[j] |]
            else
                null

        lambdaGradient, loss

    /// The hypergradient of level j into its gradient vector; `direct` sees its direct part.
    let hypergradient readings (point: Point) j (micros: Micro list) (direct: Tensor -> unit) : Found =
        let gradients = Array.create count null

        for k in Problem.below problem j do
            if point.Taken[k].IsSome then
                gradients[k] <- levels[k].Meta.zero_ ()

        gradients[j] <- levels[j].Gradient.zero_ ()

        let mode =
            if problem.Heights[j] < top then
                { Mode.Meta with Stops = Stops.Record }
            else
                Mode.Meta

        let value =
            Responses.partials point (Problem.precision problem) j mode micros gradients

        let loss = Checks.loss readings step levels[j].Level value
        direct gradients[j]
        let responses = Responses.addResponses point j j gradients

        readings.Finite(
            levels[j].Gradient,
            fun () ->
                for k in Problem.below problem j do
                    if not (isNull gradients[k]) && not (Number.isFinite gradients[k]) then
                        Checks.notFinite step levels[k].Level (metaGradient k) gradients[k]

                Checks.notFinite step levels[j].Level "the hypergradient" levels[j].Gradient
        )

        Checks.sound readings step levels[j]

        { Index = j
          Loss = loss
          Responses = responses }

    /// Where all levels are at this base step, those of `taken` having stepped.
    let pointOf (taken: LevelStep option[]) : Point =
        { Problem = problem
          Before = live
          After =
            fun k ->
                match taken[k] with
                | Some step -> step.After()
                | None -> live[k]
          Taken = taken }

    /// Hypergradients of the levels that are due, from the lowest tier up; a level that stepped responds to those above.
    let climb readings (fetch: int -> Micro list) (taken: LevelStep option[]) (isDue: int -> bool) direct : Found list =
        [ for tier in 1..top do
              if isDue tier then
                  for j in 0 .. count - 1 do
                      if problem.Heights[j] = tier then
                          hypergradient readings (pointOf (Array.copy taken)) j (fetch j) direct

                  if tier < top && isDue (tier + 1) then
                      for j in 0 .. count - 1 do
                          if problem.Heights[j] = tier then
                              levels[j].Preview()
                              taken[j] <- Some(levels[j].Step(fetch j, null, null)) ]

    /// Names of parameters that no gradient has moved yet; looked at while there are any.
    let touch i =
        if untouched[i].Count > 0 then
            let views = Layout.views levels[i].Level.Layout levels[i].Gradient

            for slice, view in Seq.zip levels[i].Level.Layout.Slices views do
                if untouched[i].Contains slice.Name && view.count_nonzero().item<int64> () > 0L then
                    untouched[i].Remove slice.Name |> ignore

    /// What a user should know of a hypergradient of 0. InvalidOperationException where the level can never move.
    let stillness (found: Found) (reports: (int * Report) list) (point: Point) fetch : string list =
        let j = found.Index
        let name = levels[j].Level.Name
        stillFor[j] <- stillFor[j] + 1

        if stillFor[j] <> hypersteps[j] || stillFor[j] > 10 && stillFor[j] <> 100 then
            [ $"the hypergradient of level '{name}' is exactly 0" ]
        else
            let seen =
                live
                |> Array.mapi (fun k own ->
                    if problem.Heights[k] < problem.Heights[j] then
                        point.After k
                    else
                        own)

            match Checks.still problem j seen fetch reports with
            | Checks.Blind reason -> invalidOp reason
            // λ may be reached by few batches
            | Checks.Unconnected reason when stillFor[j] >= 100 ->
                invalidOp $"{reason}, nor was it at any meta step before; it can never move"
            | Checks.Dead reason when stillFor[j] >= 10 ->
                invalidOp
                    $"level '{name}' has not moved in {stillFor[j]} meta steps and cannot: {reason}. Start the weights above 0, take a base rule without second moments (sgd), or samaNa"
            | Checks.Unconnected reason
            | Checks.Dead reason
            | Checks.Exact reason -> [ reason ]

    let warnings (found: Found) norm (reports: (int * Report) list) point fetch : string list =
        let j = found.Index
        hypersteps[j] <- hypersteps[j] + 1
        Scope.run (fun _ -> touch j)

        [ for _, report in reports do
              if report.Converged = Nullable false then
                  $"{report.Method} did not converge: residual {report.Residual.Value:G3}"

              if not (isNull report.Note) then
                  report.Note
          if norm = 0.0 then
              yield! stillness found reports point fetch
          if hypersteps[j] = 10 then
              for i in j :: Problem.below problem j do
                  if untouched[i].Count > 0 then
                      let names = String.Join(", ", untouched[i])

                      $"no gradient has moved the parameters {names} of level '{levels[i].Level.Name}' in {hypersteps[j]} meta steps: does a loss depend on them?" ]

    /// What is said of a difference whose perturbation rounding takes away; looked at now and then.
    let rounded (k: int) (report: Report) : Report =
        if isNull report.Note && report.Epsilon.HasValue && report.Norm.HasValue then
            let moved = report.Epsilon.Value * report.Norm.Value
            let size = Method.size live[k]
            let lost = size * torch.finfo(live[k].dtype).eps / 4.0

            if lost > 0.1 * moved then
                { report with
                    Note =
                        $"rounding takes the perturbation away: it has length {moved:G2}, the parameters of level '{levels[k].Level.Name}' have {size:G2}, rounded by {lost:G2}; take a larger alpha, or float64" }
            else
                report
        else
            report

    let metaReport (point: Point) fetch (found: Found) : MetaReport =
        let norm = Method.size levels[found.Index].Gradient
        let taken = hypersteps[found.Index] + 1

        let reports =
            [ for k, response in found.Responses ->
                  let report = response.Report.Value

                  k,
                  (if taken &&& (taken - 1) = 0 then
                       rounded k report
                   else
                       report) ]

        let warnings = warnings found norm reports point fetch

        let responses =
            match reports with
            | [] -> [ Report.empty "none" ]
            | _ -> List.map snd reports

        MetaReport(levels[found.Index].Level.Name, found.Loss.Value, norm, responses, warnings)

    /// The base steps of the levels that are active: their gradients, and what they lead to.
    let baseSteps readings (fetched: Dictionary<int, Micro list>) working looksBack =
        let taken: LevelStep option[] = Array.create count None

        let losses =
            [ for i in working do
                  let micros = fetched[i]
                  let lambdaGradient, loss = basePass readings i micros

                  let window =
                      if looksBack && not (isNull levels[i].Window) then
                          // the batches stay the step's
                          levels[i].Window.With(step, micros)
                      else
                          null

                  taken[i] <- Some(levels[i].Step(micros, lambdaGradient, window))
                  loss ]

        taken, losses

    /// Whether this meta step's passes are run again: the 1st, 2nd, 4th, 8th, … of a problem.
    let replays () =
        let count = Interlocked.Increment(&problem.Replays.contents)
        count &&& (count - 1L) = 0L

    let replayLowest (fetched: Dictionary<int, Micro list>) working =
        for i in working do
            Checks.replay problem i live levels[i].Gradient fetched[i]

    /// Levels between others, whose losses are differenced too.
    let replayMiddle (fetched: Dictionary<int, Micro list>) (point: Point) (found: Found list) =
        for one in found do
            if problem.Heights[one.Index] < top then
                let seen =
                    live
                    |> Array.mapi (fun k own ->
                        if problem.Heights[k] < problem.Heights[one.Index] then
                            point.After k
                        else
                            own)

                Checks.replay problem one.Index seen null fetched[one.Index]

    let fetcher (fetched: Dictionary<int, Micro list>) i =
        match fetched.TryGetValue i with
        | true, micros -> micros
        | _ ->
            let micros = Problem.micros problem seed i step
            fetched[i] <- micros
            micros

    let commit (found: Found list) working (fetched: Dictionary<int, Micro list>) =
        for one in List.rev found do
            levels[one.Index].Commit()

        for i in working do
            levels[i].Commit()
            levels[i].Record(step, fetched[i])

        for one in found do
            for k, response in one.Responses do
                response.Move |> Option.iter (fun move -> levels[k].Vector.add_ move |> ignore)

    let take (fetched: Dictionary<int, Micro list>) : StepReport =
        use readings = new Readings(problem.ReadTogether)
        let working = lowest |> List.filter (fun i -> Problem.active problem i step)

        for i in lowest do
            if begins i then
                levels[i].Begin step

        for i in working do
            fetcher fetched i |> ignore

        let due tier = Problem.due problem tier step
        let taken, losses = baseSteps readings fetched working (due 1)

        let found, metas =
            if not (due 1) then
                readings.Close()
                [], []
            else
                Problem.keepingBuffers problem (fun () ->
                    let again = replays ()

                    if again then
                        replayLowest fetched working

                    for i in working do
                        levels[i].Preview()

                    let found = climb readings (fetcher fetched) taken due ignore
                    readings.Close()
                    let point = pointOf taken

                    if again then
                        replayMiddle fetched point found

                    found, found |> List.map (metaReport point (fetcher fetched)))

        if hypersteps |> Array.forall (fun n -> n < 10) then
            Scope.run (fun _ -> List.iter touch working)

        commit found working fetched

        { Step = step + 1L
          BaseLoss = losses |> List.averageBy _.Value
          Meta = List.tryLast metas |> Option.toObj
          Metas = metas
          Skipped = null }

    let closeWindows () =
        if Problem.due problem 1 step then
            for i in lowest do
                levels[i].Close()

    /// Runs `body` with what the step fetches; frees it, and puts everything back if it fails.
    let transaction (body: Dictionary<int, Micro list> -> 'result) : 'result =
        let fetched = Dictionary<int, Micro list>()
        claim ()
        let saved = Buffers.copy (buffers ())
        let mutable undo = []

        try
            try
                Scope.run (fun _ ->
                    undo <- reset ()
                    body fetched)
                |> fun result ->
                    for struct (_, finish) in undo do
                        finish ()

                    result
            with e ->
                for struct (back, _) in undo do
                    back ()

                Buffers.load saved (buffers ())

                match e with
                | :? ExternalException ->
                    let reason = (e.Message.Split '\n')[0]

                    raise (
                        InvalidOperationException(
                            $"step {step}: libtorch failed in the derivative of a loss: {reason}. If an operator has no second derivative (fused attention), use a first-order method (sama) or the plain operator",
                            e
                        )
                    )
                | _ -> reraise ()
        finally
            for _, buffer in saved do
                buffer.Dispose()

            for micros in fetched.Values do
                for micro in micros do
                    (micro :> IDisposable).Dispose()

            rebind ()
            Scope.sweep step (live[0].numel ())

    member _.Levels = levels
    member _.StepsTaken = step

    /// One base step, and those of the levels above that are due. If it throws, the run is as before it.
    member _.Step() : StepReport =
        Problem.requireUnchanged problem

        let report =
            try
                transaction take
            with :? NonFiniteException as e when problem.Options.NonFinite = NonFinitePolicy.Skip ->
                { Step = step + 1L
                  BaseLoss = nan
                  Meta = null
                  Metas = []
                  Skipped =
                    if Problem.due problem 1 step then
                        $"{e.Message}; the meta step that was due is left out with it"
                    else
                        e.Message }

        closeWindows ()
        step <- step + 1L
        report

    /// The state; its tensors are the run's own but for the buffers, which are copies if `copied`.
    member _.State(buffersOf: (string * Tensor) list) : RunState =
        { Levels = [| for level in levels -> level.State |]
          Buffers = readOnlyDict buffersOf
          Step = step
          Seed = seed }

    /// A copy of the state, owned by the caller.
    member run.Snapshot() : RunState =
        let own = RunState.map (fun t -> Scope.detach (t.clone ())) (run.State [])

        claim ()

        { own with
            Buffers = readOnlyDict (Buffers.copy (buffers ())) }

    /// The run goes on from another state of its problem, which is copied; its vectors stay where they are.
    member _.Load(state: RunState) : unit =
        claim ()

        for level, own in Seq.zip levels state.Levels do
            level.Load own

        Buffers.load [ for b in state.Buffers -> b.Key, b.Value ] (buffers ())
        step <- state.Step
        seed <- state.Seed
        Array.fill stillFor 0 count 0
        Array.fill hypersteps 0 count 0
        rebind ()

    /// Runs `body` between two steps: without gradients, its tensors freed, buffers put back.
    member _.Between(body: unit -> 'result) : 'result =
        claim ()

        Problem.keepingBuffers problem (fun () ->
            use _ = torch.NewDisposeScope()
            use _ = torch.no_grad ()
            body ())

    /// A step of the lowest levels alone, whatever is due; the length of their updates.
    member _.BaseStep() : float =
        let size =
            transaction (fun fetched ->
                use readings = new Readings(problem.ReadTogether)
                let working = lowest |> List.filter (fun i -> Problem.active problem i step)

                for i in working do
                    fetcher fetched i |> ignore

                baseSteps readings fetched working false |> ignore
                readings.Close()
                commit [] working fetched
                working |> List.sumBy (fun i -> Method.size levels[i].Gradient ** 2.0) |> sqrt)

        step <- step + 1L
        size

    /// The hypergradient of the highest level (the first of several) behind as many base steps as the methods look back on:
    /// the run is of no further use. h, direct gradient and report; the tensors are the caller's.
    member run.Differentiate() : Tensor * Tensor * Report =
        let back = lowest |> List.map (Problem.lookback problem) |> List.max |> max 1L

        for left in back .. -1L .. 2L do
            for i in lowest do
                if Problem.lookback problem i = left then
                    levels[i].Begin step

            run.BaseStep() |> ignore

        transaction (fun fetched ->
            use readings = new Readings(problem.ReadTogether)

            for i in lowest do
                if Problem.lookback problem i = 1L then
                    levels[i].Begin step

                fetcher fetched i |> ignore

            let taken, _ = baseSteps readings fetched lowest true
            let direct = ref null

            Problem.keepingBuffers problem (fun () ->
                let again = replays ()

                if again then
                    replayLowest fetched lowest

                for i in lowest do
                    levels[i].Preview()

                let all =
                    climb readings (fetcher fetched) taken (fun _ -> true) (fun part -> direct.Value <- part.clone ())

                let found = all |> List.find (fun found -> problem.Heights[found.Index] = top)
                readings.Close()

                if again then
                    replayMiddle fetched (pointOf taken) all

                let report = metaReport (pointOf taken) (fetcher fetched) found
                Scope.detach (levels[found.Index].Gradient.clone ()), Scope.detach direct.Value, report.Response))

    /// The loss of the highest level at the state, on the batch of its step.
    member _.TopLoss() : float =
        transaction (fun fetched ->
            Problem.keepingBuffers problem (fun () ->
                use readings = new Readings(problem.ReadTogether)
                let j = count - 1
                let taken: LevelStep option[] = Array.create count None

                let value =
                    Responses.partials
                        (pointOf taken)
                        (Problem.precision problem)
                        j
                        Mode.Meta
                        (fetcher fetched j)
                        (Array.create count null)

                let loss = Checks.loss readings step levels[j].Level value
                readings.Close()
                loss.Value))

    /// Frees what steps worked in; the state with `dispose`, else it goes to whoever asked for it.
    member run.Free(dispose: bool) : unit =
        owner |> Option.iter _.Release()

        for level in levels do
            level.Free()

        if dispose then
            (run.State []).Dispose()
