/// `bench rules`: each rule against TorchSharp's optimizer, its adaptation against derivatives, its time in copies.
module Sama.Benchmarks.RuleBench

open System
open System.Diagnostics
open TorchSharp
open Sama
open Sama.Functional

type private Optimizer = Modules.Parameter -> torch.optim.Optimizer

/// A variant, its rate, and TorchSharp's optimizer where there is one and it is right.
let private variants: (string * float * UpdateRule * Optimizer option) list =
    let some (make: Modules.Parameter -> #torch.optim.Optimizer) : Optimizer option =
        Some(fun p -> make p :> torch.optim.Optimizer)

    [ "sgd", 0.1, sgd 0.1, some (fun p -> torch.optim.SGD([ p ], 0.1))
      "sgd-momentum",
      0.1,
      sgdWith
          { SgdOptions.Default with
              LearningRate = 0.1
              Momentum = 0.9 },
      some (fun p -> torch.optim.SGD([ p ], 0.1, momentum = 0.9))
      "sgd-nesterov",
      0.1,
      sgdWith
          { SgdOptions.Default with
              LearningRate = 0.1
              Momentum = 0.9
              Nesterov = true },
      some (fun p -> torch.optim.SGD([ p ], 0.1, momentum = 0.9, nesterov = true))
      "adam", 0.01, adam 0.01, some (fun p -> torch.optim.Adam([ p ], 0.01))
      "adamw", 0.01, adamW 0.01 0.05, some (fun p -> torch.optim.AdamW([ p ], 0.01, weight_decay = 0.05))
      "amsgrad", 0.01, amsgrad 0.01, some (fun p -> torch.optim.Adam([ p ], 0.01, amsgrad = true))
      "adamax", 0.01, adamax 0.01, some (fun p -> torch.optim.Adamax([ p ], 0.01))
      "nadam", 0.01, nadam 0.01, some (fun p -> torch.optim.NAdam([ p ], 0.01))
      "radam", 0.01, radam 0.01, None
      "rmsprop", 0.01, rmsprop 0.01, some (fun p -> torch.optim.RMSProp([ p ], 0.01))
      "rmsprop-centered",
      0.01,
      rmspropWith
          { RmsPropOptions.Default with
              Centered = true },
      some (fun p -> torch.optim.RMSProp([ p ], 0.01, centered = true))
      "adagrad", 0.01, adagrad 0.01, some (fun p -> torch.optim.Adagrad([ p ], 0.01))
      "adadelta", 1.0, adadelta 1.0, some (fun p -> torch.optim.Adadelta([ p ], 1.0))
      "adafactor", 0.01, adafactor 0.01, None
      "lamb", 0.01, lamb 0.01, None
      "lion", 0.01, lion 0.01, None
      "asgd", 0.01, asgd 0.01, None ]

let private layout = Layout.create [ "matrix", [| 8L; 7L |]; "vector", [| 9L |] ]

let private normal (seed: int64) (length: int64) : Tensor =
    use generator = new torch.Generator(uint64 seed)
    torch.randn ([| length |], dtype = torch.float64, generator = generator)

let private largest (x: Tensor) = x.abs().max().item<float> ()

/// max |θ − TorchSharp's θ| over 200 random steps.
let private deviation (rule: UpdateRule) (make: Optimizer) : float =
    use _ = torch.NewDisposeScope()
    let bound = UpdateRule.bind layout rule
    let mutable theta = normal 1L layout.Length
    let mutable state = bound.Init theta
    let p = new Modules.Parameter(theta.clone ())
    use optimizer = make p
    let mutable worst = 0.0

    for t in 1L .. 200L do
        let g = normal (100L + t) layout.Length
        let u, next = bound.Step state g theta
        theta <- theta - u
        state <- next
        p.grad <- g
        optimizer.step () |> ignore
        worst <- max worst (largest (theta - p.detach ()))

    worst

/// Largest errors of the adaptation against differentiation of the step (from t = 1) and central differences (from
/// t = 2), each over max(its largest value, 1e-12 rate).
let private adaptationErrors (rate: float) (rule: UpdateRule) : (float * float) option =
    use _ = torch.NewDisposeScope()
    let bound = UpdateRule.bind layout rule

    match bound.Adaptation with
    | Error _ -> None
    | Ok adapt ->
        let theta = normal 2L layout.Length
        let mutable state = bound.Init theta
        let mutable autodiff, difference = 0.0, 0.0

        for t in 1L .. 12L do
            let g, v = normal (500L + t) layout.Length, normal (700L + t) layout.Length
            let closed = adapt state g theta v

            let over (reference: Tensor) =
                largest (closed - reference) / max (largest reference) (1e-12 * rate)

            let value g = fst (bound.Step state g theta)
            autodiff <- max autodiff (over (Autodiff.vjp value g v))

            if t > 1L then
                let h = 1e-6

                let slope (i: int64) =
                    let unit = torch.zeros_like g
                    unit[i] <- torch.tensor (h, dtype = torch.float64)
                    ((value (g + unit) - value (g - unit)).dot v).item<float> () / (2.0 * h)

                let numeric = [| for i in 0L .. layout.Length - 1L -> slope i |]
                difference <- max difference (over (torch.tensor numeric))

            state <- snd (bound.Step state g theta)

        Some(autodiff, difference)

/// Wall time, and the processor time of all threads, which other processes on a loaded machine change less.
let private milliseconds (action: unit -> unit) : float * float =
    let processor () =
        Environment.CpuUsage.TotalTime.TotalMilliseconds

    let start = processor ()
    let watch = Stopwatch.StartNew()
    action ()
    watch.Elapsed.TotalMilliseconds, processor () - start

let private median (xs: float list) = (List.sort xs)[xs.Length / 2]

/// Wall and processor times of the actions, interleaved, as multiples of the first one's in the same round: medians of
/// the ratios.
let private ratios (rounds: int) (actions: (unit -> unit) list) : float list * float list =
    // until the compiler's last tier is reached
    let warm = Stopwatch.StartNew()

    while warm.ElapsedMilliseconds < 700L do
        for action in actions do
            action ()

    let rounds = [ for _ in 1..rounds -> actions |> List.map milliseconds ]

    let over clock =
        [ for times in List.map (List.map clock) rounds -> [ for time: float in times -> time / times.Head ] ]
        |> List.transpose
        |> List.map median

    over fst, over snd

let private single (rule: UpdateRule) (side: int64) (body: BoundRule -> RuleState -> Tensor -> Tensor -> Tensor -> 'r) =
    use _ = torch.NewDisposeScope()
    let layout = Layout.create [ "matrix", [| side; side |] ]

    let draw seed =
        (normal seed layout.Length).to_type torch.float32

    let bound = UpdateRule.bind layout rule
    let theta = draw 1L

    let state =
        bound.InPlace.Advance (bound.Init theta) (draw 2L) theta (torch.empty_like theta)

    body bound state (draw 3L) theta (draw 4L)

/// Step and adaptation on a million parameters in float32, in copies of the vector.
let private perCopy (rule: UpdateRule) : float * float option =
    single rule 1000L (fun bound state g theta v ->
        let out, copy = torch.empty_like g, torch.empty_like g
        let mutable live = state

        let actions: (unit -> unit) list =
            [ fun () -> copy.copy_ g |> ignore
              fun () -> live <- bound.InPlace.Advance live g theta out
              if Result.isOk bound.Adaptation then
                  fun () -> bound.InPlace.AdaptInto state g theta v ]

        match fst (ratios 41 actions) with
        | [ _; step; adaptation ] -> step, Some adaptation
        | times -> times[1], None)

/// Adam's step (θ ← θ − u) and adaptation on ten million parameters, against TorchSharp's Adam and against copies
/// that read and write as many vectors.
let private adamAtScale () =
    single (adam 1e-3) 3163L (fun bound state g theta v ->
        let out, copy = torch.empty_like g, torch.empty_like g
        let p = new Modules.Parameter(theta.clone ())
        p.grad <- g.clone ()
        use optimizer = torch.optim.Adam([ p ], 1e-3)
        let mutable live = state

        let step () =
            live <- bound.InPlace.Advance live g theta out
            theta.sub_ out |> ignore

        let adaptation () = bound.InPlace.AdaptInto state g theta v

        // a copy touches 2 vectors; the step reads g, m, s and writes m, s, u, and θ ← θ − u touches 3 more; the
        // adaptation reads g, m, s, v and writes v
        let wall, processor =
            ratios
                21
                [ (fun () -> copy.copy_ g |> ignore)
                  step
                  adaptation
                  (fun () -> optimizer.step () |> ignore) ]

        for clock, times in [ "wall", wall; "processor", processor ] do
            match times with
            | [ _; step; adaptation; torchSharp ] ->
                printfn
                    $"adam, 1e7 parameters, {clock} time: step / TorchSharp {step / torchSharp:F3}, adaptation / step {adaptation / step:F3}, step / traffic {step / 4.5:F2}, adaptation / traffic {adaptation / 2.5:F2}"
            | _ -> invalidOp "four actions have four times")

let run (write: obj list -> unit) : int =
    let threads = torch.get_num_threads ()

    let rows =
        [ for name, rate, rule, optimizer in variants ->
              let errors = adaptationErrors rate rule
              let step, adaptation = perCopy rule

              {| rule = name
                 torchSharpDeviation = optimizer |> Option.map (deviation rule) |> Option.toNullable
                 adaptationErrorAutodiff = errors |> Option.map fst |> Option.toNullable
                 adaptationErrorDifference = errors |> Option.map snd |> Option.toNullable
                 stepPerCopy = step
                 adaptationPerCopy = Option.toNullable adaptation |} ]

    for row in rows do
        printfn
            $"| {row.rule} | {row.torchSharpDeviation:E1} | {row.adaptationErrorAutodiff:E1} | {row.adaptationErrorDifference:E1} | {row.stepPerCopy:F1} | {row.adaptationPerCopy:F1} |"

    printfn $"{threads} threads"
    adamAtScale ()
    write (rows |> List.map box)
    0
