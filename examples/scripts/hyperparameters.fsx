// One decay a weight (101,632 of them), one rate a layer, label smoothing and the strength of an augmentation, learned
// together by SAMA in one training on 1,000 rows; beside them random search and a search by a Gaussian process with many
// trainings each. All choose on the same validation rows; the test rows are looked at once, at the end.
//   ./build.sh run hyperparameters.fsx --data FOLDER --trainings 50 --seeds 0,1,2 --report FILE --picture FILE.svg
// FOLDER holds MNIST's four gzipped files; without it digits are drawn, and everything is smaller. Trainings that are in the
// report are not run again.
#r "nuget: Sama.Functional"
#r "nuget: libtorch-cpu-linux-x64"
#r "nuget: MathNet.Numerics, 5.0.0"
#load "Digits.fs"
#load "GaussianProcess.fs"
#load "Curves.fs"
#load "Trainings.fs"

open System
open System.IO
open MathNet.Numerics.Distributions
open TorchSharp
open Sama
open Sama.Functional
open Trainings

Native.initialize ()

let folder = option "--data"
let trainings = count "--trainings" (if folder.IsSome then 50 else 8)
let steps = count "--steps" (if folder.IsSome then 300 else 150)

let seeds =
    [ for seed in (defaultArg (option "--seeds") "0").Split ',' -> number "--seeds" 0 seed ]

let data =
    if folder.IsSome then
        DirectoryInfo(folder.Value).Name
    else
        "drawn"

let settings = $"{data}, {steps} steps, {trainings} trainings a search"

// the task
let rows, test =
    match folder with
    | Some folder ->
        try
            Digits.read folder "train", Digits.read folder "t10k"
        with
        | :? IOException
        | :? InvalidDataException as e -> refuse e.Message
    | None -> Digits.drawn 0 1000, Digits.drawn 1 2000

let train = rows |> Digits.take [ 0L .. 699L ]
let valid = rows |> Digits.take [ 700L .. 999L ]
let both = rows |> Digits.take [ 0L .. 999L ]
let testRows = test |> Digits.take [ 0L .. (fst test).shape[0] - 1L ]

let start (seed: int) : (string * Tensor) list =
    use generator = new torch.Generator(uint64 seed)

    let normal (outputs: int64) (inputs: int64) =
        torch.randn ([| outputs; inputs |], generator = generator)
        * sqrt (2.0 / float inputs)

    [ "W1", normal 128L 784L
      "b1", torch.zeros 128L
      "W2", normal 10L 128L
      "b2", torch.zeros 10L ]

let logits (theta: Params) (x: Tensor) =
    let h = torch.nn.functional.linear (x, theta["W1"], theta["b1"])
    torch.nn.functional.linear (h.relu (), theta["W2"], theta["b2"])

// digits moved by up to half the image, times the strength: differentiable in it
let moved (strength: Tensor) (x: Tensor) =
    let by = (torch.rand (x.shape[0], 2L, 1L) * 2.0 - 1.0) * strength
    let affine = torch.cat ([| torch.eye(2L).expand (x.shape[0], 2L, 2L); by |], 2L)
    let images = x.view (-1L, 1L, 28L, 28L)
    let grid = torch.nn.functional.affine_grid (affine, images.shape, false)
    torch.nn.functional.grid_sample(images, grid, align_corners = false).view (-1L, 784L)

let half (x: Tensor) = 0.5 * x.sigmoid ()

// what is learned or searched stands in one level: logs of decays and rates, logits of the rest
let baseLoss (theta: Params) (lambda: Params) (x: Tensor, y: Tensor) =
    let logs = (logits theta (moved (half lambda["strength"]) x)).log_softmax 1L
    let smoothing = half lambda["smoothing"]
    let hard = torch.nn.functional.nll_loss (logs, y)

    let decay =
        (lambda["decay1"].exp () * theta["W1"].square ()).sum ()
        + (lambda["decay2"].exp () * theta["W2"].square ()).sum ()

    ((1.0 - smoothing) * hard - smoothing * logs.mean () + 0.5 * decay).sum ()

let validLoss (theta: Params) (x: Tensor, y: Tensor) =
    torch.nn.functional.cross_entropy (logits theta x, y)

// what a user would start with, and the ranges of a search
let names = [| "decay1"; "decay2"; "rate1"; "rate2"; "smoothing"; "strength" |]
let usual = [| log 1e-4; log 1e-4; log 1e-3; log 1e-3; -4.0; -4.0 |]
let low = [| log 1e-6; log 1e-6; log 1e-4; log 1e-4; -5.0; -5.0 |]
let high = [| log 1e-1; log 1e-1; log 3e-2; log 3e-2; 1.0; 1.0 |]

let lambdaOf (perWeight: bool) (values: float[]) : (string * Tensor) list =
    let shape (name: string) : int64[] =
        match name with
        | "decay1" when perWeight -> [| 128L; 784L |]
        | "decay2" when perWeight -> [| 10L; 128L |]
        | _ -> [| 1L |]

    [ for name, value in Array.zip names values -> name, torch.ones (shape name) * value ]

// a training on those rows from lambda's values, which SAMA moves or which stay; and where they ended
let trained way seed number (x: Tensor, y: Tensor) (lambda: (string * Tensor) list) (learned: bool) =
    let options =
        { BilevelOptions.Default with
            WarmUp = if learned then 0L else Int64.MaxValue }

    let rule =
        adam 1e-3
        |> UpdateRule.learning "LearningRate" (fun lambda ->
            torch.cat([| lambda["rate1"]; lambda["rate2"] |]).exp().repeat_interleave 2L)

    let problem =
        Problem.create
            options
            Hypergradient.sama
            [ Level.create "net" (start seed) rule (Batches.shuffled (Rows.pair x y) 50) (fun _ -> baseLoss)
              Level.create "hyperparameters" lambda (adam 1e-1) (fun _ -> valid) (fun _ theta _ -> validLoss theta) ]

    let clock = Environment.CpuUsage.TotalTime
    use run = new BilevelRun(problem, int64 seed)

    try
        for _ in 1..steps do
            run.Step() |> ignore
    with :? NonFiniteException as e ->
        eprintfn $"{e.Message}: the state before it counts"

    let seconds = (Environment.CpuUsage.TotalTime - clock).TotalSeconds
    use _ = torch.no_grad ()
    use _ = torch.NewDisposeScope()

    let error (x: Tensor, y: Tensor) =
        ((logits run.Theta x).argmax(1L).ne y).to_type(torch.float64).mean().item<float> ()

    let mean (name: string) =
        run.Lambda[name].to_type(torch.float64).mean().item<float> ()

    let result =
        { Settings = settings
          Way = way
          Seed = seed
          Number = number
          Values = Array.map mean names
          ValidLoss = (validLoss run.Theta valid).item<float32> () |> float |> min 10.0
          TestError = error testRows
          Seconds = seconds }

    result, [ for name in names -> name, run.Lambda[name].clone().DetachFromDisposeScope() ]

let once way seed number make =
    Trainings.once settings way seed number (fun () ->
        use _ = torch.NewDisposeScope()
        make ())

let fixedAt way seed number (values: float[]) =
    once way seed number (fun () -> fst (trained way seed number train (lambdaOf false values) false))

// nothing is left to choose: the validation rows join the training rows
let onAllRows way seed (lambda: unit -> (string * Tensor) list) =
    let way = $"{way}, then all 1,000 rows"
    once way seed 0 (fun () -> fst (trained way seed 0 both (lambda ()) false))

// the searches, in the unit cube
let ofCube = Array.map3 (fun low high x -> low + x * (high - low)) low high

let toCube =
    Array.map3 (fun low high value -> (value - low) / (high - low)) low high

let draw (random: Random) =
    Array.init low.Length (fun _ -> random.NextDouble())

let randomSearch seed =
    let random = Random seed
    [ for number in 0 .. trainings - 1 -> fixedAt "random search" seed number (ofCube (draw random)) ]

// the first ten are those of the random search
let processSearch seed (first: Training list) =
    let random = Random(seed + 1000)

    let next (found: Training list) =
        let xs = [| for training in found -> toCube training.Values |]
        let ys = [| for training in found -> log training.ValidLoss |]
        let predict, best = GaussianProcess.fit xs ys, Array.min ys
        let incumbent = xs[Array.findIndex ((=) best) ys]

        let near () =
            incumbent
            |> Array.map (fun x -> Math.Clamp(Normal.Sample(random, x, 0.1), 0.0, 1.0))

        let candidates = [ for i in 1..2000 -> if i % 4 = 0 then near () else draw random ]

        let chosen =
            candidates
            |> List.maxBy (fun x -> GaussianProcess.expectedImprovement best (predict x))

        found @ [ fixedAt "Gaussian process" seed found.Length (ofCube chosen) ]

    List.fold (fun found _ -> next found) first [ first.Length + 1 .. trainings ]

// one training by SAMA, and with what it found held
let bySama seed (way: string) (perWeight: bool) =
    let learn () =
        trained way seed 0 train (lambdaOf perWeight usual) true

    let mutable values = None

    let learned =
        once way seed 0 (fun () ->
            let training, found = learn ()
            values <- Some found
            training)

    // what was learned is in no report: where that is read, it is learned again
    let again () =
        values |> Option.defaultWith (learn >> snd)

    [ way, [ learned ]
      $"{way}, then all 1,000 rows", [ learned; onAllRows way seed again ] ]

let chosen (found: Training list) = found |> List.minBy _.ValidLoss

let bySearch seed (way: string) (found: Training list) =
    let last = onAllRows way seed (fun () -> lambdaOf false (chosen found).Values)
    [ way, found; $"{way}, then all 1,000 rows", found @ [ last ] ]

// a way and its trainings, a seed each
let results: (string * Training list) list =
    [ for seed in seeds do
          // first, since what the first training of all compiles is a fiftieth of this cost
          let random = randomSearch seed
          yield! bySearch seed "usual values" [ fixedAt "usual values" seed 0 usual ]
          yield! bySama seed "SAMA, a decay a weight" true
          yield! bySama seed "SAMA, a decay a layer" false
          yield! bySearch seed "random search" random
          yield! bySearch seed "Gaussian process" (processSearch seed (List.truncate (min 10 (trainings / 2)) random)) ]

// on all rows the last training counts, else the best by the validation loss
let ended (way: string) (found: Training list) =
    if way.EndsWith "rows" then
        List.last found
    else
        chosen found

let searched =
    results |> List.filter (fst >> (=) "random search") |> List.collect snd

let costOf (found: Training list) =
    (found |> List.sumBy _.Seconds) / (searched |> List.averageBy _.Seconds)

let shown (v: float[]) =
    let half x = 0.5 / (1.0 + exp -x)
    $"{exp v[0]:G2}, {exp v[1]:G2}; {exp v[2]:G2}, {exp v[3]:G2}; {half v[4]:F3}; {half v[5]:F3}"

printfn $"{settings}, {seeds.Length} seeds, {(fst testRows).shape[0]} test rows"
printfn "| way | test error | validation loss | cost in trainings | decays; rates; smoothing; strength (first seed) |"
printfn "|---|---|---|---|---|"

let ways =
    results
    |> List.groupBy fst
    |> List.map (fun (way, own) -> way, List.map snd own)

for way, seeds in ways do
    let best = seeds |> List.map (ended way)
    let error = spread "P1" (best |> List.map _.TestError)

    let loss =
        if way.EndsWith "rows" then
            "" // rows that were trained on judge nothing
        else
            spread "F3" (best |> List.map _.ValidLoss)

    let cost = spread "F1" (List.map costOf seeds)
    printfn $"| {way} | {error} | {loss} | {cost} | {shown best.Head.Values} |"

// cost and test error behind each training, means over seeds
let curve (way: string) (seeds: Training list list) : (float * float) list =
    [ for count in (if way.EndsWith "rows" then seeds.Head.Length else 1) .. seeds.Head.Length ->
          let first = seeds |> List.map (List.truncate count)

          List.averageBy costOf first, first |> List.averageBy (fun found -> (ended way found).TestError) ]

option "--picture"
|> Option.iter (fun path ->
    [ for number, (way, seeds) in List.indexed ways ->
          { Curves.Name = way
            Curves.Colour = [| "gray"; "crimson"; "darkorange"; "steelblue"; "seagreen" |][number / 2]
            Curves.Filled = number % 2 = 0
            Curves.Points = curve way seeds } ]
    |> Curves.write path "test error against cost in trainings" 0.5 (1.2 * float trainings))
