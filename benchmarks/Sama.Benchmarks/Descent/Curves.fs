/// P2: how far every method brings λ with so many gradient evaluations.
module Sama.Benchmarks.Descent.Curves

open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference

/// Gradient evaluations at which ‖∇h‖² is read.
let budgets = [ 30; 100; 300; 1000; 3000 ]

type Row =
    {
        Method: string
        /// of the grid, what ended with the least ‖∇h‖²
        Unroll: int
        Rate: float
        /// ‖∇h(λ)‖² behind `budgets` evaluations; infinite where λ left all bounds
        Squares: float list
    }

/// Methods, and the weight of each hypergradient in the meta rule's moving average (1: it does not average).
let methods: (string * HypergradientMethod * float) list =
    let cg count =
        Hypergradient.conjugateGradientWith
            { ConjugateGradientOptions.Default with
                Iterations = count
                Tolerance = 0.0 }

    let neumann =
        Hypergradient.neumannWith
            { NeumannOptions.Default with
                MeasureResidual = false }

    [ "sama", Hypergradient.sama, 1.0
      "samaNa", Hypergradient.samaNa, 1.0
      "t1t2", Hypergradient.t1t2, 1.0
      "neumann(5)", neumann, 1.0
      "conjugateGradient(5)", cg 5, 1.0
      "fixedPoint(5)", Hypergradient.fixedPoint 5 1.0, 1.0
      "nystrom(20)", Hypergradient.nystrom 20, 1.0
      "unrolled", Hypergradient.unrolled, 1.0
      "truncated(5)", Hypergradient.truncated 5, 1.0
      "f2sa",
      Hypergradient.f2saWith
          { F2saOptions.Default with
              Step = 1.0
              Iterations = 20 },
      1.0
      "exact", Hypergradient.exact, 1.0
      "soba", Hypergradient.soba 1.0, 1.0
      "ma-soba", Hypergradient.soba 1.0, 0.1
      "amigo(5)", Hypergradient.amigo 5 1.0, 1.0
      "sama, each 5th conjugateGradient(20)", Hypergradient.everyNth 5 (cg 20) Hypergradient.sama, 1.0
      "sama, from meta step 20 conjugateGradient(5)", Hypergradient.switching 20L Hypergradient.sama (cg 5), 1.0 ]

/// Gradients that a step of the run evaluated: its own, that of the meta loss, and passes and products of its method.
let evaluations (report: StepReport) : int =
    match report.Meta with
    | null -> 1
    | meta -> 2 + meta.Response.Passes + meta.Response.Products

let private rates = [ 0.3; 1.0; 3.0 ]

/// The rule of the upper level: that of MA-SOBA where less than all of a hypergradient joins the average.
let averaged (weight: float) (rule: UpdateRule) : UpdateRule =
    if weight = 1.0 then rule else averaging weight rule

let private curve (p: Quadratic) (losses: Suite.Losses) unroll rate method weight : float list =
    let solution = ((Quadratic.problem p).Solution).Value

    let square (run: BilevelRun) =
        let lambda = Suite.toVector run.Lambda.Vector
        let square = (Quadratic.closedForm p lambda (solution lambda)).L2Norm() ** 2.0
        if System.Double.IsNaN square then infinity else square

    let levels =
        match
            Suite.levels
                losses
                (sgd 1.0)
                (torch.zeros (100L, dtype = torch.float64))
                (torch.full (100L, -2.0, dtype = torch.float64))
        with
        | [ lowest; upper ] ->
            let rule = averaged weight (sgd rate)

            [ lowest
              { upper with
                  Update = rule
                  Rule = UpdateRule.bind upper.Layout rule } ]
        | other -> other

    let problem =
        Problem.create
            { BilevelOptions.Default with
                Unroll = unroll }
            method
            levels

    use run = new BilevelRun(problem, 1L)
    let mutable spent = 0

    try
        [ for budget in budgets do
              while spent < budget do
                  spent <- spent + evaluations (run.Step())

              square run ]
    with :? NonFiniteException ->
        [ for _ in budgets -> infinity ]

/// Every method at K = 1 and 10 and three rates; of each the curve that ends lowest.
let measure () : Row list =
    use _ = torch.NewDisposeScope()
    let p = Quadratic.draw 0 1024 100 100
    let losses = Suite.quadratic p

    [ for name, method, weight in methods ->
          let looksBack = name = "unrolled" || name.StartsWith "truncated"

          [ for unroll in (if looksBack then [ 10 ] else [ 1; 10 ]) do
                for rate in rates ->
                    { Method = name
                      Unroll = unroll
                      Rate = rate
                      Squares = curve p losses unroll rate method weight } ]
          |> List.minBy (fun row -> List.last row.Squares) ]
