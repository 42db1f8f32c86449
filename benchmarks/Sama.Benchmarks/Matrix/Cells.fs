/// The cells of the matrix: a method under a rule, given in one way.
module Sama.Benchmarks.Matrix.Cells

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Benchmarks.Matrix.Rules
open Sama.Benchmarks.Matrix.Subject
open Sama.Benchmarks.Matrix.Oracle

/// A method, what it must give, and when it must be refused.
[<NoComparison; NoEquality>]
type Subject =
    {
        Name: string
        /// the method whose error it has: its own, but for one that is made of two
        Kind: string
        /// null where the way is no option of the method's
        Method: Way -> HypergradientMethod option
        /// (dθ/dλ)ᵀ v
        Response: Way -> Point -> Vec
        /// what the next meta step finds in its memory, from `remembered`; None without one
        Kept: (Point -> Vec) option
        /// its differences are read against ε
        Differences: bool
        /// it needs the rule's adaptation, coordinates that do not see each other, second derivatives
        Adapts: bool
        Elementwise: bool
        Second: bool
        /// its products are exact, or differences
        Choice: bool
    }

/// A method without options of a difference.
let private always method (way: Way) =
    if way.OneSided || way.After || way.Products <> ProductForm.Default then
        None
    else
        Some method

/// A method with a choice of how its products are formed.
let private choosing method (way: Way) =
    if way.OneSided || way.After then None
    elif way.Products = ProductForm.Default then Some method
    else Some(Hypergradient.withProducts way.Products method)

let private implicit' name method response =
    { Name = name
      Kind = name
      Method = choosing method
      Response = response
      Kept = None
      Differences = false
      Adapts = true
      Elementwise = false
      Second = true
      Choice = true }

let private exactAlone name method response =
    { implicit' name method response with
        Method = always method
        Choice = false }

let private differences name (make: SamaOptions -> HypergradientMethod) (direction: Point -> Vec) =
    { Name = name
      Kind = name
      Method =
        fun way ->
            if way.Products <> ProductForm.Default then
                None
            else
                Some(
                    make
                        { SamaOptions.Default with
                            OneSided = way.OneSided
                            Centre = if way.After then Centre.PostUpdate else Centre.PreUpdate }
                )
      Response = fun way p -> difference way p (direction p)
      Kept = None
      Differences = true
      Adapts = false
      Elementwise = false
      Second = false
      Choice = false }

let private terms, iterations, eta = 5, 6, 0.7
let private columns, rho = [ 0; 3; 7 ], 0.1
let private sigma, pulls, pull = 100.0, 15, 0.2
let private amortised = 3

/// A method that goes on from the meta step before: the response is that with its memory behind `before` steps.
let private goesOn name (method: HypergradientMethod) (before: int) (behind: int) =
    { implicit' name method (fun _ p -> along p (goingOn before eta p)) with
        Kept = Some(goingOn behind eta)
        Elementwise = true }

/// One method of two, of which that one is due.
let private phase name (make: HypergradientMethod -> HypergradientMethod -> HypergradientMethod) first second isFirst =
    let due = if isFirst then first else second

    { due with
        Name = name
        Method =
            fun way ->
                // options of a difference are those of one method alone
                let plain =
                    { way with
                        Products = ProductForm.Default }

                if way.OneSided || way.After then
                    None
                else
                    let choice (own: Subject) =
                        (own.Method(if own.Choice then way else plain)).Value

                    Some(make (choice first) (choice second))
        Kept =
            match due.Kept with
            // the other one's stays as it is
            | None when first.Kept.IsSome || second.Kept.IsSome -> Some remembered
            | own -> own
        Adapts = first.Adapts || second.Adapts
        Second = first.Second || second.Second
        Choice = first.Choice || second.Choice
        Elementwise = first.Elementwise || second.Elementwise }

/// η Σ_{j<terms} (I − ηJᵀ)ʲ v, which the fixed-point iteration from 0 is too.
let private series (terms: int) (eta: float) (p: Point) : Vec =
    let step = Numbers.identity p.V.Count - eta * (p.G * p.H + p.E).Transpose()

    [ for j in 0 .. terms - 1 -> if j = 0 then p.V else step.Power(j) * p.V ]
    |> List.reduce (+)
    |> (*) eta

let private singles: Subject list =
    [ exactAlone "exact" Hypergradient.exact (fun _ p -> implicitly p p.Followed.Value)
      { differences "sama" Hypergradient.samaWith (fun p -> p.G.TransposeThisAndMultiply p.V) with
          Adapts = true }
      differences "samaNa" Hypergradient.samaNaWith _.V
      differences
          "samaFisher"
          (fun o ->
              Hypergradient.samaFisherWith
                  { SamaFisherOptions.Default with
                      Difference = o })
          (fun p -> p.V.PointwiseDivide(p.Fisher + 0.1 * (p.Fisher.Sum() / float p.Fisher.Count)))
      exactAlone "t1t2" Hypergradient.t1t2 (fun _ p -> adjoint p p.V)
      implicit' "neumann" (Hypergradient.neumann terms eta) (fun _ p -> adjoint p (series terms eta p))
      implicit'
          "conjugateGradient"
          (Hypergradient.conjugateGradientWith
              { ConjugateGradientOptions.Default with
                  Iterations = 200
                  Tolerance = 1e-13 })
          (fun _ p -> implicitly p (p.H, p.C))
      implicit'
          "fixedPoint"
          (Hypergradient.fixedPointWith
              { FixedPointOptions.Default with
                  Iterations = iterations
                  Step = eta
                  Tolerance = 0.0 })
          (fun _ p -> adjoint p (series iterations eta p))
      { implicit'
            "nystrom"
            (Hypergradient.nystromWith
                { NystromOptions.Default with
                    Columns = [| for i in columns -> int64 i |]
                    Rho = rho })
            (fun _ p -> nystrom columns rho p) with
          Elementwise = true }
      { implicit' "unrolled" Hypergradient.unrolled (fun way p -> (p.Unrolled way.Unroll).TransposeThisAndMultiply p.V) with
          Adapts = false }
      { implicit' "truncated" (Hypergradient.truncated 1) (fun way p ->
            (p.Unrolled(min 2 way.Unroll)).TransposeThisAndMultiply p.V) with
          Method = fun way -> choosing (Hypergradient.truncated (min 2 way.Unroll)) way
          Adapts = false }
      { exactAlone
            "f2sa"
            (Hypergradient.f2saWith
                { F2saOptions.Default with
                    Sigma = sigma
                    Iterations = pulls
                    Step = pull
                    Tolerance = 0.0 })
            (fun _ p -> penalised sigma pulls pull p) with
          Elementwise = true
          Second = false }
      goesOn "soba" (Hypergradient.soba eta) 0 1
      goesOn "amigo" (Hypergradient.amigo amortised eta) amortised amortised ]

/// Every method. Those of two are tried at a meta step of each: the window's is the 6th, or the 2nd where K = 3.
let methods: Subject list =
    let single name =
        singles |> List.find (fun own -> own.Name = name)

    let every count better usual =
        Hypergradient.everyNth count better usual

    let change at first later = Hypergradient.switching at first later

    let sama, gradients, amigo, last =
        single "sama", single "conjugateGradient", single "amigo", single "truncated"

    singles
    @ [ phase "everyNth" (every 2) gradients sama true
        phase "everyNth" (every 4) amigo sama false
        phase "switching" (change 7L) sama last true
        phase "switching" (change 1L) sama last false ]

/// Words of the reasons for which a cell must be refused; none if it must not.
let refusals (method: Subject) (rule: Rule) (way: Way) : string list =
    [ if method.Second && way.Module && not (method.Choice && byDifferences way) then
          "cannot be differentiated twice"
      if method.Adapts then
          yield! Option.toList rule.Refused
      if method.Elementwise && rule.Couples then
          "couples coordinates" ]

/// What became of a cell.
type Outcome =
    | Right of error: float
    | Refused of reason: string
    | Wrong of what: string

/// Measured: at most a fifth of it. Reverse mode under bfloat16 passes forms second derivatives in bfloat16.
let private tolerance (method: Subject) (way: Way) (point: Point) =
    let single = way.Type = torch.float32

    match method.Kind with
    | "unrolled"
    | "truncated" when way.Narrow -> 0.1
    // a solve to the end multiplies the products' errors
    | "conjugateGradient" when single && byDifferences way -> max 5e-2 (1e-3 * condition point)
    | _ when method.Differences && way.OneSided -> 1e-3
    | _ when method.Differences -> if single then 5e-3 else 1e-8
    | _ when method.Choice && byDifferences way -> if single then 5e-2 else 1e-6
    | _ -> if single then 1e-3 else 1e-7

/// λ, the base level's tensors and the method's memory behind a window.
let private numbers (state: RunState) : Tensor list =
    [ state.Lambda
      state.Theta
      yield! RuleState.tensors state.Levels[0].Rule
      if not (isNull state.Levels[0].Kept) then
          state.Levels[0].Kept ]

/// The state with something in the method's memory.
let private remembering (way: Way) (point: Point) (state: RunState) : RunState =
    let kept = (Sama.Suite.ofVector (remembered point)).to_type way.Type

    { state with
        Levels =
            [| { state.Levels[0] with
                   LevelState.Kept = kept }
               state.Levels[1] |] }

let private straight (problem: BilevelProblem) (way: Way) (start: RunState) : RunState =
    use run = new BilevelRun(problem, start)

    for _ in 1 .. way.Unroll do
        run.Step() |> ignore

    run.Snapshot()

let private resumed (problem: BilevelProblem) (way: Way) (start: RunState) : RunState =
    let mutable state = RunState.copy start

    for _ in 1 .. way.Unroll do
        use before = state
        use run = new BilevelRun(problem, before)
        run.Step() |> ignore
        state <- run.Snapshot()

    state

/// The window's end; a resumed or pure run that differs from the straight one is an error.
let private ending problem way start : Result<RunState, string> =
    let straight = straight problem way start

    let other, what =
        if way.Resumed then
            resumed problem way start, "resumed"
        else
            fst (Bilevel.step problem start), "pure"

    use other = other

    if List.forall2 (fun (a: Tensor) (b: Tensor) -> a.Equals b) (numbers straight) (numbers other) then
        Ok straight
    else
        Error $"the {what} run is not the straight one"

/// The response that the window's end tells, and what it left in the method's memory, against what they must be.
let private weigh (method: Subject) rule (way: Way) (point: Point) (start: RunState) (ending: RunState) : Outcome =
    let before, after =
        Sama.Suite.toVector start.Lambda, Sama.Suite.toVector ending.Lambda

    let response = before - after - point.Direct
    let answer = method.Response way point
    let size = Numbers.norm answer
    // λ itself is rounded
    let rounding = 4.0 * torch.finfo(way.Type).eps * Numbers.norm before
    let error = (Numbers.norm (response - answer) - rounding) / max size 1e-30

    let ofMemory =
        match method.Kept with
        | None -> 0.0
        | Some kept ->
            let expected = kept point

            Numbers.norm (Sama.Suite.toVector ending.Levels[0].Kept - expected)
            / Numbers.norm expected

    let allowed = tolerance method way point

    if size < 1e-6 && not (rule.Refused.IsSome && size = 0.0) then
        Wrong $"the expected response is {size}, too small to tell"
    elif error > allowed then
        Wrong $"off by {error}: %A{response.ToArray()} instead of %A{answer.ToArray()}"
    elif ofMemory > allowed then
        Wrong $"its memory is off by {ofMemory}"
    else
        Right(max 0.0 (max error ofMemory))

/// The cell, from the state that its window starts with and the oracle's point.
let judge (method: Subject) (rule: Rule) (way: Way) (start: RunState) (point: Point) : Outcome option =
    match method.Method way with
    | None -> None
    | Some used ->
        use _ = torch.NewDisposeScope()
        let expected = refusals method rule way

        let composed =
            try
                Ok(problem way rule.Update used)
            with :? ArgumentException as e ->
                Error e.Message

        match composed, expected with
        | Error reason, _ ->
            match expected |> List.tryFind reason.Contains with
            | Some words when reason.Contains method.Kind -> Refused words
            | _ -> Wrong $"refused: {reason}"
        | Ok _, words :: _ -> Wrong $"not refused ('{words}')"
        | Ok problem, [] ->
            try
                let from =
                    if method.Kept.IsSome then
                        remembering way point start
                    else
                        start

                match ending problem way from with
                | Error what -> Wrong what
                | Ok ending ->
                    use ending = ending
                    weigh method rule way point start ending
            with e ->
                Wrong $"{e.GetType().Name}: {e.Message}"
        |> Some

/// Every method under a rule in one way.
let row (rule: Rule) (way: Way) : (Subject * Outcome) list =
    use _ = torch.NewDisposeScope()
    use start = start way rule.Update
    let point = point rule way start

    [ for method in methods do
          match judge method rule way start point with
          | Some outcome -> method, outcome
          | None -> () ]
