/// Problems whose rows the ranks share, and the same on one rank that has the rows of all.
module Sama.Ranks.Tests.Problems

open TorchSharp
open Sama
open Sama.Functional

let f64 = torch.float64
let scalar = Number.scalar

let normal (seed: int64) (shape: int64[]) : Tensor =
    use g = new torch.Generator(uint64 seed)
    torch.randn (shape, dtype = f64, generator = g)

/// ‖a − b‖/‖b‖
let distance (a: Tensor) (b: Tensor) : float =
    ((a - b).norm () / (b.norm () + 1e-300)).item<float> ()

/// Rows of one rank, drawn by rank, of several together, or a rank's part of eight that so many ranks share.
type Rows =
    | Own
    | OfAll of int
    | Part of int

let private rows (rows: Rows) (count: int64) : Draw -> Tensor =
    let own rank (draw: Draw) =
        use g = new torch.Generator(uint64 { draw with Rank = rank }.RandomSeed)
        torch.randint (40L, [| count |], dtype = torch.int64, generator = g)

    match rows with
    | Own -> fun draw -> own draw.Rank draw
    | OfAll size -> fun draw -> torch.cat [| for rank in 0 .. size - 1 -> own rank draw |]
    | Part size ->
        Batches.create
            { Sampling.Of(8 / size) with
                Ranks = size }
            (Rows.tensor (torch.arange 40L))

let private losses (x: Tensor) (y: Tensor) (p: Params) (at: Tensor) : Tensor =
    let hidden =
        torch.tanh (torch.nn.functional.linear (x.index_select (0L, at), p["W1"], p["b1"]))

    let out: Tensor = torch.nn.functional.linear(hidden, p["W2"]).squeeze 1L
    (out - y.index_select (0L, at)).square ()

let private layers seed : (string * Tensor) list =
    [ "W1", normal seed [| 7L; 5L |] * 0.5
      "b1", normal (seed + 1L) [| 7L |] * 0.1
      "W2", normal (seed + 2L) [| 1L; 7L |] * 0.5 ]

/// A small net whose losses a sigmoid of the losses themselves (a stop-feature) and of the inputs weighs.
let reweighting (kind: Rows) (options: BilevelOptions) (rule: UpdateRule) (method: HypergradientMethod) =
    let x, y = normal 1L [| 40L; 5L |], normal 2L [| 40L |]
    let metaX, metaY = normal 3L [| 40L; 5L |], normal 4L [| 40L |]

    let baseLoss (pass: Pass) theta (lambda: Params) at =
        let l = losses x y theta at
        let feature = pass.Stop("losses", l)

        let weight =
            torch.sigmoid (feature * lambda["a"] + (x.index_select (0L, at)).mv lambda["c"])

        (weight * l).mean ()

    Problem.create
        options
        method
        [ Level.create "net" (layers 10L) rule (rows kind 4L) baseLoss
          Level.create
              "weights"
              [ "a", torch.full ([| 1L |], scalar 0.3, dtype = f64)
                "c", normal 20L [| 5L |] ]
              (adam 1e-2)
              (rows kind 3L)
              (fun _ theta lambda at -> (losses metaX metaY theta at).mean () + (lambda["c"].square().sum ()) * 1e-2) ]

/// The same without stop-features, for methods that follow them otherwise: one regulariser a parameter.
let regularised (kind: Rows) (options: BilevelOptions) (rule: UpdateRule) (method: HypergradientMethod) =
    let x, y = normal 1L [| 40L; 5L |], normal 2L [| 40L |]
    let metaX, metaY = normal 3L [| 40L; 5L |], normal 4L [| 40L |]

    Problem.create
        options
        method
        [ Level.create "net" (layers 10L) rule (rows kind 4L) (fun _ theta lambda at ->
              (losses x y theta at).mean ()
              + (lambda["log"].exp () * theta.Vector.square ()).sum ())
          Level.create
              "penalties"
              [ "log", torch.full ([| 49L |], scalar -0.5, dtype = f64) ]
              (sgd 1e-3)
              (rows kind 3L)
              (fun _ theta _ at -> (losses metaX metaY theta at).mean ()) ]

/// Three levels, each with rows of its own: the net, penalties on it, a penalty on these.
let threeLevels (kind: Rows) (response: MiddleResponse) (method: HypergradientMethod) =
    let x, y = normal 1L [| 40L; 5L |], normal 2L [| 40L |]
    let metaX, metaY = normal 3L [| 40L; 5L |], normal 4L [| 40L |]
    let topX, topY = normal 5L [| 40L; 5L |], normal 6L [| 40L |]

    Problem.create
        BilevelOptions.Default
        method
        [ Level.general "net" (layers 10L) (sgd 0.05) (rows kind 4L) (fun _ levels at ->
              (losses x y levels["net"] at).mean ()
              + ((levels["penalties"].["log"] + levels["prior"].["rho"].sum () * 0.1).exp ()
                 * levels["net"].Vector.square ())
                  .sum ())
          Level.general
              "penalties"
              [ "log", torch.full ([| 49L |], scalar -0.5, dtype = f64) ]
              (sgd 1e-3)
              (rows kind 3L)
              (fun _ levels at ->
                  (losses metaX metaY levels["net"] at).mean ()
                  + levels["prior"].["rho"].exp().sum ()
                    * levels["penalties"].["log"].square().mean ())
          |> Level.responding response
          Level.general
              "prior"
              [ "rho", torch.full ([| 2L |], scalar -1.0, dtype = f64) ]
              (sgd 1e-3)
              (rows kind 3L)
              (fun _ levels at -> (losses topX topY levels["net"] at).mean ()) ]

/// A chain of equal layers, for reductions that go on beside the backward pass; `touch` sees each pass, its level and its
/// loss, `look` each draw of the net's rows.
let watched
    (options: BilevelOptions)
    (width: int64)
    (depth: int)
    (dtype: torch.ScalarType)
    (look: Draw -> unit)
    (touch: Pass -> string -> Params -> Tensor -> Tensor)
    =
    let make seed (shape: int64[]) : Tensor = (normal seed shape).to_type dtype

    let layer i = $"W{i}"
    let x, y = make 1L [| 64L; width |], make 2L [| 64L; width |]

    let forward (p: Params) (at: Tensor) =
        let mutable h = x.index_select (0L, at)

        for i in 0 .. depth - 1 do
            h <- torch.tanh (h.mm p[layer i])

        (h - y.index_select (0L, at)).square().mean [| 1L |]

    Problem.create
        options
        Hypergradient.sama
        [ Level.create
              "net"
              [ for i in 0 .. depth - 1 ->
                    layer i, make (10L + int64 i) [| width; width |] / scalar (sqrt (float width)) ]
              (adam 1e-3)
              (fun draw ->
                  look draw
                  rows Own 8L draw)
              (fun pass theta lambda at ->
                  // a look in front of the pass, which is not part of it
                  (use _ = torch.no_grad ()
                   forward theta at |> ignore)

                  (torch.sigmoid lambda["w"] * forward theta at).mean () |> touch pass "net" theta)
          Level.create
              "weights"
              [ "w", torch.zeros (1L, dtype = dtype) ]
              (adam 1e-2)
              (rows Own 8L)
              (fun pass theta _ at -> (forward theta at).mean () |> touch pass "weights" theta) ]

let deep width depth dtype =
    watched BilevelOptions.Default width depth dtype ignore (fun _ _ _ loss -> loss)

/// A part that reads a parameter of its own, runs one part twice and another by `forward`, which runs no hooks.
type Mixed() as this =
    inherit torch.nn.Module<Tensor, Tensor>("mixed")
    let scale = new Modules.Parameter(torch.ones [| 24L |])
    let twice = torch.nn.Linear(24L, 24L)
    let unhooked = torch.nn.Linear(24L, 24L)
    do this.RegisterComponents()

    override _.forward x =
        unhooked.forward ((x * scale) |> twice.call |> torch.tanh |> twice.call)

/// A module of equal layers with operators in place between, in three accumulated micro-batches; mixed, with a part as above,
/// and a loss that reads a parameter in front of the pass and another by its name.
let modular (isMixed: bool) =
    torch.manual_seed 4L |> ignore
    let narrow: Tensor -> Tensor = _.to_type(torch.float32)
    let x, y = narrow (normal 1L [| 64L; 24L |]), narrow (normal 2L [| 64L; 24L |])
    let first = torch.nn.Linear(24L, 24L)

    let net =
        torch.nn.Sequential
            [| first :> torch.nn.Module<Tensor, Tensor>
               for _ in 1..3 do
                   torch.nn.ReLU(inplace = true)
                   torch.nn.LayerNorm 24L
                   if isMixed then new Mixed() else torch.nn.Linear(24L, 24L) |]

    let losses (at: Tensor) =
        (net.call (x.index_select (0L, at)) - y.index_select (0L, at)).square().mean [| 1L |]

    let problem =
        Problem.create
            { BilevelOptions.Default with
                Accumulate = 3 }
            Hypergradient.sama
            [ Level.ofModuleGeneral "net" net (adam 1e-2) (rows Own 8L) (fun _ levels at ->
                  let before =
                      if isMixed then
                          first.weight.square().mean () + levels["net"].["2.weight"].square().mean ()
                      else
                          torch.tensor 0.0f

                  (torch.sigmoid levels["weights"].["w"] * losses at).mean () + before)
              Level.general "weights" [ "w", torch.zeros 1L ] (adam 1e-2) (rows Own 8L) (fun _ _ at ->
                  (losses at).mean ()) ]

    net, problem

/// A module with batch norm, whose running statistics each rank's rows move.
let normalised () =
    torch.manual_seed 4L |> ignore

    let net =
        torch.nn.Sequential(
            torch.nn.Linear(5L, 6L) :> torch.nn.Module<Tensor, Tensor>,
            torch.nn.BatchNorm1d 6L,
            torch.nn.Linear(6L, 1L)
        )

    let x, y =
        (normal 1L [| 40L; 5L |]).to_type torch.float32, (normal 2L [| 40L |]).to_type torch.float32

    let losses (at: Tensor) =
        (net.call(x.index_select (0L, at)).squeeze 1L - y.index_select (0L, at)).square ()

    let problem =
        Problem.create
            BilevelOptions.Default
            Hypergradient.sama
            [ Level.ofModuleGeneral "net" net (adam 1e-2) (rows Own 8L) (fun _ levels at ->
                  (torch.sigmoid levels["weights"].["w"] * losses at).mean ())
              Level.general "weights" [ "w", torch.zeros 1L ] (adam 1e-2) (rows Own 8L) (fun _ _ at ->
                  (losses at).mean ()) ]

    net, problem
