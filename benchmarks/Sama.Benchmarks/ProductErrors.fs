/// Products by central differences against exact ones at the same point.
module Sama.Benchmarks.ProductErrors

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Benchmarks.Models

type Row =
    {
        Model: string
        /// as a function of Params, or as a module
        Given: string
        Type: string
        /// (∂g/∂θ)ᵀ w, w the meta gradient v and H v; (∂g/∂λ)ᵀ v: ‖difference − exact‖/‖exact‖
        HessianOfV: float
        HessianOfHv: float
        MixedOfV: float
        /// responses: ‖by differences − exact‖/‖exact‖
        Neumann5: float
        ConjugateGradient5: float
        Unrolled3: float
    }

let private hidden = 64L

/// A net of convolutions and one of linear layers that a module can be, too: the module, and its function of Params.
let private sequential (name: string) : torch.nn.Module<Tensor, Tensor> * Model =
    let layers: (string * torch.nn.Module<Tensor, Tensor>) list =
        match name with
        | "small cnn" ->
            [ "0", torch.nn.Conv2d(3L, 8L, 3L, 2L)
              "1", torch.nn.GELU()
              "2", torch.nn.Conv2d(8L, 16L, 3L, 2L)
              "3", torch.nn.GELU()
              "4", torch.nn.Flatten()
              "5", torch.nn.Linear(16L * 49L, classes) ]
        | _ ->
            [ "0", torch.nn.Linear(hidden, hidden)
              "1", torch.nn.GELU()
              "2", torch.nn.Linear(hidden, classes) ]

    let net = torch.nn.Sequential [ for name, layer in layers -> struct (name, layer) ]

    let parameters () =
        [ for struct (name, p) in net.named_parameters () -> name, p.detach().clone () ]

    let logits (p: Params) (x: Tensor) =
        let apply (h: Tensor) (name, layer: torch.nn.Module<Tensor, Tensor>) =
            match layer with
            | :? TorchSharp.Modules.Conv2d ->
                torch.nn.functional.conv2d (h, p[$"{name}.weight"], p[$"{name}.bias"], [| 2L; 2L |])
            | :? TorchSharp.Modules.Linear -> torch.nn.functional.linear (h, p[$"{name}.weight"], p[$"{name}.bias"])
            | _ -> layer.call h

        List.fold apply (x.to_type p["0.weight"].dtype) layers

    let shape rows =
        if name = "small cnn" then
            [| rows; 3L; 32L; 32L |]
        else
            [| rows; hidden |]

    net,
    { Name = name
      Parameters = parameters
      Inputs = fun generator rows -> torch.randn (shape rows, generator = generator)
      Labels = fun generator x -> torch.randint (classes, [| x.shape[0] |], dtype = torch.int64, generator = generator)
      Logits = logits }

let private options =
    { BilevelOptions.Default with
        Unroll = 3 }

/// The re-weighting problem of `Models.problem` in a type, over the model or over its module.
let private problemOf (dtype: torch.ScalarType) (net: torch.nn.Module<Tensor, Tensor> option) (model: Model) =
    let own = Models.problem torch.CPU options (adam 1e-3) Hypergradient.sama 16L model

    let cast (level: Level) =
        let parameters =
            [ for slice, view in
                  Seq.zip level.Layout.Slices (Layout.views level.Layout ((level.Initial()).to_type dtype)) ->
                  slice.Name, view ]

        parameters

    let lambda = cast own.Levels[1]
    let batch = Models.batch torch.CPU 16L model

    let level, losses =
        match net with
        | None -> Choice1Of2(cast own.Levels[0]), Models.losses model
        | Some net ->
            net.``to`` dtype |> ignore

            Choice2Of2 net,
            fun _ (x: Tensor, y: Tensor) ->
                torch.nn.functional.cross_entropy (net.call (x.to_type dtype), y, reduction = torch.nn.Reduction.None)

    let baseLoss (pass: Pass) (theta: Params) (lambda: Params) rows =
        let l = losses theta rows
        (weights lambda (pass.Stop("losses", l)) * l).mean ()

    let lowest =
        match level with
        | Choice1Of2 parameters -> Level.create model.Name parameters (adam 1e-3) batch baseLoss
        | Choice2Of2 net ->
            Level.ofModuleGeneral model.Name net (adam 1e-3) batch (fun pass levels rows ->
                baseLoss pass levels[model.Name] levels["weights"] rows)

    Problem.create
        options
        Hypergradient.sama
        [ lowest
          Level.create "weights" lambda (adam 1e-3) batch (fun _ theta _ rows -> (losses theta rows).mean ()) ]

/// H v, H H v and (∂g/∂λ)ᵀ v of one state, v the meta gradient.
let private products form problem state : Tensor list =
    let mutable found = []

    let look =
        Hypergradient.create "look" [ Products form ] (fun at v ->
            let linear = at.Linearize(at.ThetaBefore, false)
            let hv = linear.ThetaVjp v
            found <- [ for t in [ hv; linear.ThetaVjp hv; linear.LambdaVjp v ] -> t.clone().DetachFromDisposeScope() ]
            torch.zeros_like at.Lambda, Report.empty "look")

    (Hypergradient.at problem state look).Dispose()
    found

let private responses form problem state : Tensor list =
    [ Hypergradient.neumannWith
          { NeumannOptions.Default with
              Step = 0.1
              MeasureResidual = false }
      Hypergradient.conjugateGradientWith
          { ConjugateGradientOptions.Default with
              Iterations = 5
              Tolerance = 0.0 }
      Hypergradient.unrolled ]
    |> List.map (fun method ->
        let found = Hypergradient.at problem state (Hypergradient.withProducts form method)

        found.Total - found.Direct)

let private error (exact: Tensor) (other: Tensor) : float =
    let wide (t: Tensor) = t.to_type torch.float64
    ((wide other - wide exact).norm () / (wide exact).norm ()).item<float> ()

let private typed = [ "float64", torch.float64; "float32", torch.float32 ]

let private row (given: string) name dtype (exact: BilevelProblem) (other: BilevelProblem) : Row =
    use _ = torch.NewDisposeScope()
    use run = new BilevelRun(exact, 1L)

    for _ in 1..30 do
        run.Step() |> ignore

    use state = run.Snapshot()

    let errors =
        List.map2
            error
            (products ProductForm.Exact exact state @ responses ProductForm.Exact exact state)
            (products ProductForm.Differences other state
             @ responses ProductForm.Differences other state)

    { Model = name
      Given = given
      Type = dtype
      HessianOfV = errors[0]
      HessianOfHv = errors[1]
      MixedOfV = errors[2]
      Neumann5 = errors[3]
      ConjugateGradient5 = errors[4]
      Unrolled3 = errors[5] }

/// Exact products of the model as a function of Params, in float64 and in float32, and differences of it and of its
/// module at the same state.
let measure () : Row list =
    let functional =
        [ encoder true false 32L 128L 2 2000L
          { cnn with Name = "residual cnn" }
          mlp "mlp of ReLU" 256L 3 ]

    [ for model in functional do
          for name, dtype in typed do
              let problem = problemOf dtype None model
              row "function" model.Name name problem problem
      for name in [ "small cnn"; "mlp of GELU" ] do
          for label, dtype in typed do
              let net, model = sequential name
              let exact = problemOf dtype None model
              row "function" name label exact exact
              row "module" name label exact (problemOf dtype (Some net) model) ]

let run (write: Row list -> unit) : int =
    let rows = measure ()
    write rows

    printfn "| model | given as | type | H v | H H v | (∂g/∂λ)ᵀ v | neumann(5) | conjugateGradient(5) | unrolled(3) |"
    printfn "|---|---|---|---|---|---|---|---|---|"

    for r in rows do
        printfn
            $"| {r.Model} | {r.Given} | {r.Type} | {r.HessianOfV:E1} | {r.HessianOfHv:E1} | {r.MixedOfV:E1} | {r.Neumann5:E1} | {r.ConjugateGradient5:E1} | {r.Unrolled3:E1} |"

    0
