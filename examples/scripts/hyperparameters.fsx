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

open System
open System.IO
open System.Text.Json
open MathNet.Numerics.Distributions
open MathNet.Numerics.Statistics
open TorchSharp
open Sama
open Sama.Functional

Native.initialize ()

let refuse (message: string) =
    eprintfn $"hyperparameters: {message}"
    exit 1

let option (name: string) : string option =
    match fsi.CommandLineArgs |> Array.tryFindIndex ((=) name) with
    | Some i when i + 1 < fsi.CommandLineArgs.Length -> Some fsi.CommandLineArgs[i + 1]
    | Some _ -> refuse $"{name} needs a value"
    | None -> None

let number (name: string) (least: int) (text: string) : int =
    match Int32.TryParse text with
    | true, value when value >= least -> value
    | _ -> refuse $"{name} {text}: a whole number of at least {least} is expected"

let count name usual =
    option name |> Option.map (number name 2) |> Option.defaultValue usual

let folder = option "--data"
let trainings = count "--trainings" (if folder.IsSome then 50 else 8)
let steps = count "--steps" (if folder.IsSome then 300 else 150)

let seeds =
    (option "--seeds" |> Option.defaultValue "0").Split ','
    |> Array.map (number "--seeds" 0)

let report = option "--report"

let data =
    folder
    |> Option.map (fun folder -> DirectoryInfo(folder).Name)
    |> Option.defaultValue "drawn"

let settings = $"{data}, {steps} steps, {trainings} trainings a search"

// ---------------------------------------------------------------- the task

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

// decay and rate of layer 1, of layer 2, smoothing, strength: what a user would start with, and the ranges of a search
let usual = [| log 1e-4; log 1e-4; log 1e-3; log 1e-3; -4.0; -4.0 |]
let low = [| log 1e-6; log 1e-6; log 1e-4; log 1e-4; -5.0; -5.0 |]
let high = [| log 1e-1; log 1e-1; log 3e-2; log 3e-2; 1.0; 1.0 |]

type Training =
    { Settings: string
      Way: string
      Seed: int
      Number: int
      Values: float[]
      ValidLoss: float
      ValidError: float
      TestError: float
      Seconds: float }

// a training on those rows from lambda's values, which SAMA moves or which stay; and where they ended
let trained
    (way: string)
    (seed: int)
    (number: int)
    (x: Tensor, y: Tensor)
    (lambda: (string * Tensor) list)
    (learned: bool)
    =
    let options =
        { BilevelOptions.Default with
            WarmUp = if learned then 0L else Int64.MaxValue }

    let rule =
        adam 1e-3
        |> UpdateRule.learning "LearningRate" (fun lambda -> lambda["rate"].exp().repeat_interleave 2L)

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

    let rates = run.Lambda["rate"].to_type (torch.float64)

    let result =
        { Settings = settings
          Way = way
          Seed = seed
          Number = number
          Values =
            [| mean "decay1"
               mean "decay2"
               rates[0].item<float> ()
               rates[1].item<float> ()
               mean "smoothing"
               mean "strength" |]
          ValidLoss = (validLoss run.Theta valid).item<float32> () |> float |> min 10.0
          ValidError = error valid
          TestError = error testRows
          Seconds = seconds }

    result,
    [ for slice in run.Lambda.Layout.Slices -> slice.Name, run.Lambda[slice.Name].clone().DetachFromDisposeScope() ]

let lambdaOf (perWeight: bool) (values: float[]) : (string * Tensor) list =
    let full (shape: int64[]) (value: float) = torch.ones shape * value
    let shape own = if perWeight then own else [| 1L |]

    [ "decay1", full (shape [| 128L; 784L |]) values[0]
      "decay2", full (shape [| 10L; 128L |]) values[1]
      "rate", torch.tensor [| float32 values[2]; float32 values[3] |]
      "smoothing", full [| 1L |] values[4]
      "strength", full [| 1L |] values[5] ]

// ---------------------------------------------------------------- trainings, each kept in the report as it ends

let mutable kept: Training list =
    [ match report with
      | Some path when File.Exists path ->
          for line in File.ReadAllLines path -> JsonSerializer.Deserialize<Training> line
      | _ -> () ]

for other in kept do
    if other.Settings <> settings then
        refuse $"--report {report.Value} is of '{other.Settings}', not of '{settings}': name another file"

let once (way: string) (seed: int) (number: int) (make: unit -> Training) : Training =
    match kept |> List.tryFind (fun k -> (k.Way, k.Seed, k.Number) = (way, seed, number)) with
    | Some known -> known
    | None ->
        use _ = torch.NewDisposeScope()
        let training = make ()
        kept <- kept @ [ training ]

        // written beside its place, and moved there whole
        for path in Option.toList report do
            File.WriteAllLines(path + ".part", kept |> List.map JsonSerializer.Serialize)
            File.Move(path + ".part", path, true)

        eprintfn $"seed {seed}, {way} {number}: validation {training.ValidLoss:F3}, {training.Seconds:F1} s"
        training

let fixedAt way seed number (values: float[]) =
    once way seed number (fun () -> fst (trained way seed number train (lambdaOf false values) false))

// nothing is left to choose: the validation rows join the training rows
let onAllRows way seed (lambda: unit -> (string * Tensor) list) =
    let way = $"{way}, then all 1,000 rows"
    once way seed 0 (fun () -> fst (trained way seed 0 both (lambda ()) false))

// ---------------------------------------------------------------- the searches, in the unit cube

let ofCube (x: float[]) =
    Array.map3 (fun x low high -> low + x * (high - low)) x low high

let draw (random: Random) =
    Array.init low.Length (fun _ -> random.NextDouble())

let randomSearch seed =
    let random = Random seed
    [ for number in 0 .. trainings - 1 -> fixedAt "random search" seed number (ofCube (draw random)) ]

// the first ten are those of the random search
let processSearch seed (first: Training list) =
    let random = Random(seed + 1000)

    let toCube (values: float[]) =
        Array.map3 (fun v low high -> (v - low) / (high - low)) values low high

    let next (found: Training list) =
        let xs, ys =
            found |> List.map (fun t -> toCube t.Values) |> Array.ofList,
            found |> List.map (fun t -> log t.ValidLoss) |> Array.ofList

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

// ---------------------------------------------------------------- one training by SAMA, and with what it found held

let bySama seed (way: string) (perWeight: bool) =
    let mutable found = []

    let learn () =
        let training, lambda = trained way seed 0 train (lambdaOf perWeight usual) true
        found <- lambda
        training

    let learned = once way seed 0 learn

    let values () =
        // what was learned is in no report: it is learned again where it is not at hand
        if found.IsEmpty then
            learn () |> ignore

        found

    [ way, [ learned ]
      $"{way}, then all 1,000 rows", [ learned; onAllRows way seed values ] ]

let chosen (found: Training list) = found |> List.minBy _.ValidLoss

let bySearch seed (way: string) (found: Training list) =
    let last = onAllRows way seed (fun () -> lambdaOf false (chosen found).Values)
    [ way, found; $"{way}, then all 1,000 rows", found @ [ last ] ]

// a way and its trainings, a seed each
let results: (string * Training list) list =
    [ for seed in seeds do
          yield! bySearch seed "usual values" [ fixedAt "usual values" seed 0 usual ]
          yield! bySama seed "SAMA, a decay a weight" true
          yield! bySama seed "SAMA, a decay a layer" false
          let random = randomSearch seed
          yield! bySearch seed "random search" random
          yield! bySearch seed "Gaussian process" (processSearch seed (List.truncate (min 10 (trainings / 2)) random)) ]

// ---------------------------------------------------------------- what they reached, and a picture of it

// on all rows the last training counts, else the best by the validation loss
let ended (way: string) (found: Training list) =
    if way.EndsWith "rows" then
        List.last found
    else
        chosen found

let second =
    results
    |> List.filter (fun (way, _) -> way = "random search")
    |> List.collect snd
    |> List.averageBy _.Seconds

let spread (format: string) (values: float list) =
    if values.Length = 1 then
        values.Head.ToString format
    else
        $"{(Statistics.Mean values).ToString format} ± {(Statistics.StandardDeviation values).ToString format}"

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
    let loss = spread "F3" (best |> List.map _.ValidLoss)

    let cost =
        spread "F1" [ for found in seeds -> (found |> List.sumBy _.Seconds) / second ]

    printfn $"| {way} | {error} | {loss} | {cost} | {shown best.Head.Values} |"

// cost and test error behind each training, means over seeds
let curve (way: string) (seeds: Training list list) : (float * float) list =
    [ for count in (if way.EndsWith "rows" then seeds.Head.Length else 1) .. seeds.Head.Length ->
          let first = seeds |> List.map (List.truncate count)

          (first |> List.averageBy (List.sumBy _.Seconds)) / second,
          first |> List.averageBy (fun found -> (ended way found).TestError) ]

let colours = [| "gray"; "crimson"; "darkorange"; "steelblue"; "seagreen" |]

option "--picture"
|> Option.iter (fun path ->
    [ for number, (way, seeds) in List.indexed ways ->
          { Curves.Name = way
            Curves.Colour = colours[number / 2]
            Curves.Filled = number % 2 = 0
            Curves.Points = curve way seeds } ]
    |> Curves.write path "test error against cost in trainings" 0.5 (1.2 * float trainings))
