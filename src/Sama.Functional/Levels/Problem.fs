namespace Sama

open System

/// What a run does when a loss, gradient or update is not finite.
type NonFinitePolicy =
    /// NonFiniteException, the state as it was before the step
    | Stop = 0
    /// the step is left out, θ, λ, rule states and buffers stay as they were, and its report says so
    | Skip = 1

/// The type in which base and meta passes compute. Vectors, rules and perturbed passes keep the parameters' own type: in
/// bfloat16 θ ± εv is mostly below one unit in the last place.
type Precision =
    /// the parameters' own
    | Own = 0
    /// bfloat16
    | BFloat16 = 1

/// How a problem is run.
[<NoComparison>]
type BilevelOptions =
    {
        /// K, base steps per meta step
        Unroll: int
        /// base steps before the first window that ends with a meta step
        WarmUp: int64
        /// micro-batches a base step; their draws have steps t·Accumulate + i
        Accumulate: int
        /// what a run does at what is not finite
        NonFinite: NonFinitePolicy
        /// the type in which base and meta passes compute
        Precision: Precision
    }

    /// One base step per meta step, no warm-up, one batch a step, stop at what is not finite, the parameters' own type.
    static member Default =
        { Unroll = 1
          WarmUp = 0L
          Accumulate = 1
          NonFinite = NonFinitePolicy.Stop
          Precision = Precision.Own }

/// Levels of one height: they step together and do not see each other.
[<NoComparison; NoEquality>]
type internal Tier =
    {
        /// base steps per step
        Period: int64
        /// base steps before its first window
        WarmUp: int64
    }

/// Levels from the lowest up, and how the hypergradients of the upper ones are found.
[<NoComparison; NoEquality>]
type BilevelProblem =
    internal
        {
            Levels: Level[]
            /// each level's tier, from 0
            Heights: int[]
            Tiers: Tier[]
            Method: HypergradientMethod
            Options: BilevelOptions
            /// values are read together on the CPU too, as on other devices
            ReadTogether: bool
            /// meta steps taken, on any run of it: at some of them a step is taken again on the same batch
            Replays: int64 ref
        }

    /// The levels' names, from the lowest up.
    member problem.LevelNames = problem.Levels |> Array.map _.Name

    /// Its levels with their sizes and rules, the method and the options, a line each.
    override problem.ToString() =
        let level i (level: Level) =
            let tier = problem.Tiers[problem.Heights[i]]

            let what =
                [ $"{level.Layout.Length:N0} parameters ({level.Type}, {level.Device})"
                  level.Update.Name
                  if level.Module.IsSome then
                      "a module trained in place"
                  if tier.Period > 1L then
                      $"a step every {tier.Period} base steps"
                  if tier.WarmUp > 0L then
                      $"from base step {tier.WarmUp}"
                  match level.Method with
                  | Some method -> $"responds by {method}"
                  | None -> () ]

            let what = String.Join(", ", what)
            $"level '{level.Name}': {what}"

        let o = problem.Options

        String.Join(
            "\n",
            [ yield! problem.Levels |> Seq.mapi level
              $"method {problem.Method}, K = {o.Unroll}, {o.Accumulate} micro-batches a base step, precision {o.Precision}, not finite: {o.NonFinite}" ]
        )

namespace Sama.Functional

open System.Collections.Generic
open TorchSharp
open Sama

/// Problems, composed and checked before anything runs.
module Problem =

    let internal methodOf (problem: BilevelProblem) (index: int) : HypergradientMethod =
        problem.Levels[index].Method |> Option.defaultValue problem.Method

    /// Positions of the levels above one, from the lowest up.
    let internal above (problem: BilevelProblem) (index: int) : int list =
        [ for j in 0 .. problem.Levels.Length - 1 do
              if problem.Heights[j] > problem.Heights[index] then
                  j ]

    /// Positions of the levels below one, from the lowest up.
    let internal below (problem: BilevelProblem) (index: int) : int list =
        [ for j in 0 .. problem.Levels.Length - 1 do
              if problem.Heights[j] < problem.Heights[index] then
                  j ]

    let private refuse (method: HypergradientMethod) reason =
        invalidArg (nameof method) $"{method.Name} cannot be used here: {reason}"

    /// Base steps of a window that the method of one of the lowest levels looks back on; 0 if it does not.
    let internal lookback (problem: BilevelProblem) (index: int) : int64 =
        (methodOf problem index).Needs
        |> List.tryPick (function
            | History(0, _) -> Some problem.Tiers[1].Period
            | History(steps, _) -> Some(int64 steps)
            | _ -> None)
        |> Option.defaultValue 0L

    /// What a level's method asks of the level whose response it is.
    let private requireNeeds (problem: BilevelProblem) index (need: Need) =
        let level, options = problem.Levels[index], problem.Options
        let method = methodOf problem index
        let refuse reason = refuse method reason
        let window = problem.Tiers[1].Period

        match need with
        | Adaptation ->
            match level.Rule.ByGradient with
            | Error reason -> refuse reason
            | Ok _ -> ()
        | SecondDerivatives when problem.Levels |> Array.exists _.Module.IsSome ->
            refuse "a module cannot be differentiated twice; give the model as a function of Params"
        | ElementwiseRule when not level.Rule.Elementwise ->
            refuse $"the rule of level '{level.Name}' couples coordinates"
        | BaseLambdaGradient when options.Precision <> Precision.Own ->
            refuse
                "one-sided differences reuse the base pass's gradient, which is in bfloat16, beside a perturbed pass in the parameters' own type; take the central difference"
        | BaseLambdaGradient when problem.Levels.Length > 2 ->
            refuse
                "one-sided differences reuse the base pass's gradient, of two levels alone; take the central difference"
        | Differences when level.Type = torch.float16 || level.Type = torch.bfloat16 ->
            refuse
                $"level '{level.Name}' has parameters of {level.Type}, in which a perturbed θ ± εv is mostly θ itself; keep them in float32, and compute the passes in 16 bits by Precision.BFloat16"
        | History _ when problem.Heights[index] > 0 ->
            refuse
                $"level '{level.Name}' lies between others; a level of its own method there is one of one step (Level.withMethod)"
        | History(steps, _) when int64 steps > window ->
            refuse $"it goes through {steps} base steps, more than Unroll ({window})"
        | History(0, last) when int64 last > window ->
            refuse $"it differentiates the last {last} base steps, more than Unroll ({window})"
        | MicroBatches count when count > options.Accumulate ->
            refuse $"it asks for {count} micro-batches of a base step, which has {options.Accumulate} (Accumulate)"
        | AtMost size when level.Layout.Length > size ->
            refuse
                $"level '{level.Name}' has {level.Layout.Length} parameters, its limit is {size}; conjugateGradient and neumann have none"
        | _ -> ()

    /// A level between others responds in total only if those below it can be moved.
    let private requireMotion (problem: BilevelProblem) index =
        if
            problem.Heights[index] > 0
            && problem.Levels[index].Response = MiddleResponse.Total
        then
            for j in below problem index do
                let method, level = methodOf problem j, problem.Levels[j]

                let held =
                    $"level '{problem.Levels[index].Name}' would have to be held (Level.responding MiddleResponse.Held)"

                match method.Motion with
                | Retaken -> ()
                | AlongTangent _ when level.Rule.Elementwise -> ()
                | AlongTangent _ ->
                    refuse
                        method
                        $"the rule of level '{level.Name}' couples coordinates, so its tangent is not known; {held}"
                | Unknown reason -> refuse method $"{reason}; {held}"

                match level.Reset with
                | Some _ -> refuse method $"level '{level.Name}' starts anew with every window; {held}"
                | None -> ()

    let private requireServed (problem: BilevelProblem) : unit =
        let top = Array.last problem.Heights

        for index in 0 .. problem.Levels.Length - 1 do
            if problem.Heights[index] < top then
                for need in (methodOf problem index).Needs do
                    requireNeeds problem index need

                requireMotion problem index

    let private requireDistinct (levels: Level list) =
        for name, twice in levels |> List.countBy _.Name do
            if twice > 1 then
                invalidArg (nameof levels) $"{twice} levels are named '{name}'"

        let owners = Dictionary<struct (nativeint * string), string * string>()

        for level in levels do
            for tied in level.Tied do
                for parameter in tied.Parameters do
                    if parameter.IsInvalid then
                        invalidArg
                            (nameof levels)
                            $"parameter '{tied.Name}' of level '{level.Name}' was replaced or cast after the level was made; make the level again"

                    let place = Number.place parameter

                    match owners.TryGetValue place with
                    | true, (owner, name) when owner <> level.Name && parameter.numel () > 0L ->
                        invalidArg
                            (nameof levels)
                            $"parameter '{tied.Name}' of level '{level.Name}' is parameter '{name}' of level '{owner}': each parameter belongs to one level (freeze it in the other, or make the level of a part of the module)"
                    | _ -> owners[place] <- (level.Name, tied.Name)

        for level in levels.Tail do
            if string level.Device <> string levels.Head.Device then
                invalidArg
                    (nameof levels)
                    $"level '{level.Name}' is on {level.Device}, '{levels.Head.Name}' on {levels.Head.Device}; a problem has one device (Problem.toDevice)"

    let private requireOptions (options: BilevelOptions) (levels: Level list) =
        if options.Unroll < 1 || options.Accumulate < 1 || options.WarmUp < 0L then
            invalidArg
                (nameof options)
                $"Unroll ({options.Unroll}) and Accumulate ({options.Accumulate}) are at least 1, WarmUp ({options.WarmUp}) at least 0"

        if options.Precision = Precision.BFloat16 then
            match levels |> List.tryFind _.Module.IsSome with
            | Some level ->
                invalidArg
                    (nameof options)
                    $"Precision.BFloat16 gives the passes copies of the parameters in bfloat16, which the module of level '{level.Name}' cannot be pointed at; make the level over named tensors"
            | None -> ()

    /// The common value of a setting in one tier.
    let private common name (what: string) (fallback: 'a) (choose: Level -> 'a option) (tier: Level list) : 'a =
        match tier |> List.choose choose |> List.distinct with
        | [] -> fallback
        | [ one ] -> one
        | _ ->
            let names = tier |> List.map _.Name |> String.concat ", "
            invalidArg name $"the levels {names} stand side by side and have different {what}"

    let private tiersOf (options: BilevelOptions) (tiers: Level list list) : Tier[] =
        let grow (before: Tier) (i, tier) =
            let steps =
                common "levels" "numbers of steps (Level.every)" (if i = 1 then options.Unroll else 1) _.Every tier

            let warmUp =
                common "levels" "warm-ups" (if i = 1 then options.WarmUp else before.WarmUp) _.WarmUp tier

            { Period = before.Period * int64 steps
              WarmUp = max warmUp before.WarmUp }

        for level in tiers.Head do
            match level.Every with
            | Some _ ->
                invalidArg
                    "levels"
                    $"level '{level.Name}' is the lowest, it takes every base step (Level.steps: only some of them)"
            | None -> ()

        tiers.Tail
        |> List.mapi (fun i tier -> i + 1, tier)
        |> List.scan grow { Period = 1L; WarmUp = 0L }
        |> Array.ofList

    /// Tiers of levels from the lowest up: the levels of one tier step together and do not see each other (tasks under
    /// one parent, several parents of one level), each level sees those of the tiers below and is steered by those above,
    /// as far as its loss depends on them. ArgumentException, with the reason, for options out of range, levels of one
    /// name or with a parameter in common, and a method that the levels cannot serve.
    let ofTiers (options: BilevelOptions) (method: HypergradientMethod) (tiers: Level list list) : BilevelProblem =
        let levels = List.concat tiers

        if tiers.Length < 2 || tiers |> List.exists _.IsEmpty then
            invalidArg
                (nameof tiers)
                $"a problem has two levels or more, one above the other; {levels.Length} were given"

        requireDistinct levels
        requireOptions options levels

        let problem =
            { Levels = Array.ofList levels
              Heights =
                [| for i, tier in List.indexed tiers do
                       yield! [ for _ in tier -> i ] |]
              Tiers = tiersOf options tiers
              Method = method
              Options = options
              ReadTogether = false
              Replays = ref 0L }

        for i, level in Array.indexed problem.Levels do
            match level.Steps with
            | Some steps when problem.Heights[i] > 0 || int64 steps > problem.Tiers[1].Period ->
                invalidArg
                    (nameof tiers)
                    $"level '{level.Name}' is to take {steps} steps of a window, which has {problem.Tiers[1].Period}; only the lowest levels leave some out"
            | _ -> ()

            if level.Reset.IsSome && problem.Heights[i] > 0 then
                invalidArg
                    (nameof tiers)
                    $"level '{level.Name}' is not of the lowest; only these start anew with a window"

        requireServed problem
        problem

    /// Levels from the lowest up, each over the one before it, the last one the meta level: `ofTiers` of one level a tier.
    let create (options: BilevelOptions) (method: HypergradientMethod) (levels: Level list) : BilevelProblem =
        ofTiers options method [ for level in levels -> [ level ] ]

    /// The same problem with another method; refused as `create` does.
    let withMethod (method: HypergradientMethod) (problem: BilevelProblem) : BilevelProblem =
        let changed = { problem with Method = method }
        requireServed changed
        changed

    /// The same problem on that device: parameters start there, modules are moved themselves. Batches are not: `data`
    /// gives them on the device. States that exist move by `RunState.toDevice`.
    let toDevice (device: torch.Device) (problem: BilevelProblem) : BilevelProblem =
        { problem with
            Levels = problem.Levels |> Array.map (Level.toDevice device) }

    let internal precision (problem: BilevelProblem) : torch.ScalarType option =
        if problem.Options.Precision = Precision.BFloat16 then
            Some torch.bfloat16
        else
            None

    /// True if the levels of a tier step behind base step number `step`, counted from 0.
    let internal due (problem: BilevelProblem) (tier: int) (step: int64) : bool =
        let { Period = period; WarmUp = warmUp } = problem.Tiers[tier]
        (step + 1L) % period = 0L && step + 1L - period >= warmUp

    /// True if a level of the lowest tier steps at base step number `step`.
    let internal active (problem: BilevelProblem) (index: int) (step: int64) : bool =
        match problem.Levels[index].Steps with
        | Some steps -> step % problem.Tiers[1].Period >= problem.Tiers[1].Period - int64 steps
        | None -> true

    /// What fixes a level's batch behind base step number `step`; `micro` counts those of an accumulated base step.
    let internal draw (problem: BilevelProblem) (seed: int64) (index: int) (step: int64) (micro: int) : Draw =
        { Seed = seed
          Step =
            if problem.Heights[index] = 0 then
                step * int64 problem.Options.Accumulate + int64 micro
            else
                step / problem.Tiers[problem.Heights[index]].Period
          Stream = index
          Rank = 0 }

    /// A level's batches behind base step number `step`, fetched.
    let internal micros (problem: BilevelProblem) (seed: int64) (index: int) (step: int64) : Micro list =
        let count =
            if problem.Heights[index] = 0 then
                problem.Options.Accumulate
            else
                1

        let fetched = List<Micro>()

        try
            for i in 0 .. count - 1 do
                fetched.Add(problem.Levels[index].Fetch problem.LevelNames (draw problem seed index step i))

            List.ofSeq fetched
        with _ ->
            for micro in fetched do
                (micro :> System.IDisposable).Dispose()

            reraise ()

    /// Modules of the levels, then those that a loss calls beside them, each named as it is in a state.
    let internal modules (problem: BilevelProblem) : (string * torch.nn.Module) list =
        let seen = HashSet<obj>(ReferenceEqualityComparer.Instance)

        [ for level in problem.Levels do
              match level.Module with
              | Some m when seen.Add m -> $"{level.Name}/", m
              | _ -> ()
          for level in problem.Levels do
              for i, m in List.indexed level.Observed.Value do
                  if seen.Add m then
                      $"{level.Name}/observed{i}/", m ]

    /// Every buffer of the problem's modules, by its name in a state.
    let internal buffers (problem: BilevelProblem) : (string * Tensor) list = Buffers.ofModules (modules problem)

    /// Runs `body` and puts every module's buffers back: only base passes may update them. It surrounds forward and
    /// backward, since the backward of a normalisation checks that its buffers are as the forward left them.
    let internal keepingBuffers (problem: BilevelProblem) (body: unit -> 'result) : 'result =
        Buffers.keeping (fun () -> buffers problem) body

    /// Points modules at the levels' parameters.
    let internal bind (problem: BilevelProblem) (parameters: Params[]) : unit =
        for level, own in Array.zip problem.Levels parameters do
            if not level.Tied.IsEmpty then
                NnModule.pointAt level.Tied own

    /// What a backward pass goes to: the views that are leaves, and the parameters of modules that stand for them. None if
    /// a loss has disposed one of them: then it goes to all there are.
    let internal leaves (problem: BilevelProblem) (parameters: Params[]) : Tensor[] option =
        let all =
            [| for level, own in Array.zip problem.Levels parameters do
                   if own.Mode = Leaves then
                       yield! own.Views

                       for tied in level.Tied do
                           for parameter in tied.Parameters do
                               parameter :> Tensor |]

        if all |> Array.exists _.IsInvalid then None else Some all

    /// InvalidOperationException naming a parameter that is no longer as it was when its level was made.
    let internal requireUnchanged (problem: BilevelProblem) : unit =
        for level in problem.Levels do
            level.Module
            |> Option.iter (fun m -> NnModule.requireUnchanged level.Name m level.Tied)

    /// For each level, which of its parameters a loss depends on at one batch, whatever its gradient there is.
    let internal reached (problem: BilevelProblem) (vectors: Tensor[]) (micro: Micro) : bool[][] =
        Scope.run (fun _ ->
            let parameters =
                Array.map2 (fun (level: Level) v -> Params.probe level.Layout v) problem.Levels vectors

            keepingBuffers problem (fun () ->
                bind problem parameters
                Autodiff.backward (micro.Loss Mode.Meta parameters) (leaves problem parameters))

            [| for level, own in Array.zip problem.Levels parameters do
                   let gradients =
                       if level.Tied.IsEmpty then
                           // a view that the loss has disposed, it has used
                           [| for view in own.Views -> if view.IsInvalid then view else view.grad |]
                       else
                           [| for tied in level.Tied -> tied.Parameters.Head.grad |]

                   gradients |> Array.map (isNull >> not) |])
