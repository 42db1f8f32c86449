/// A small net that keeps what it was trained on, and the problem it is given.
module Sama.DataOptimization.Tests.PrunedNet

open System
open System.Collections.Generic
open System.IO
open System.Threading
open Expecto
open TorchSharp
open Sama
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let classes, width, hidden = 3, 4, 5

/// A tanh net in float64 that starts at the same values always, and keeps what it was trained on: rows and
/// log-probabilities, step by step.
type Net(points: float[][], seed: int) =
    let read = Queue<int[]>()

    let parameters =
        let random = Random seed

        let draw (shape: int64[]) =
            shape, Array.init (int (Array.fold (*) 1L shape)) (fun _ -> normal random)

        [ "w1", draw [| int64 hidden; int64 width |]
          "b1", draw [| int64 hidden |]
          "w2", draw [| int64 classes; int64 hidden |]
          "b2", draw [| int64 classes |] ]

    let features (theta: Params) (x: Tensor) =
        torch.tanh (torch.nn.functional.linear (x, theta["w1"], theta["b1"]))

    member val Trained = ResizeArray<int[] * float[][]>()

    /// A parameter's start, as rows.
    member _.Start(name: string) : float[][] =
        let shape, values = List.find (fst >> (=) name) parameters |> snd
        Array.chunkBySize (int (Array.last shape)) values

    interface IRowClassifier with
        member _.Classes = classes
        member _.Rows = points.Length
        member _.Rate = 2e-2

        member _.Start(_) : IReadOnlyList<struct (string * Tensor)> =
            [| for name, (shape, values) in parameters ->
                   struct (name, torch.tensor(values, dtype = torch.float64).reshape shape) |]

        member _.Read(rows: int[]) : Tensor[] =
            read.Clear()
            read.Enqueue rows

            [| torch
                   .tensor(rows |> Array.collect (fun row -> points[row]), dtype = torch.float64)
                   .view (int64 rows.Length, -1L) |]

        member net.LogProbabilities(theta: Params, inputs: Tensor[], training: bool) : Tensor =
            let log =
                torch.nn.functional.log_softmax (
                    torch.nn.functional.linear (features theta inputs[0], theta["w2"], theta["b2"]),
                    1L
                )

            if training then
                net.Trained.Add((Seq.head read, Rows.FromTensor log))

            log

        member _.Dispose() = ()

/// The same where its last layer is told.
type Headed(points: float[][], seed: int) =
    inherit Net(points, seed)

    interface ILinearHead with
        member _.Features(theta: Params, inputs: Tensor[]) : Tensor =
            torch.tanh (torch.nn.functional.linear (inputs[0], theta["w1"], theta["b1"]))

        member _.HeadWeight = "w2"
        member _.HeadBias = true

/// Points of three classes around their own corners, and their labels.
let drawn (seed: int) (count: int) =
    let random = Random seed
    let labels = Array.init count (fun row -> row % classes)

    labels,
    labels
    |> Array.map (fun label -> Array.init width (fun d -> (if d = label then 2.5 else 0.0) + normal random))

/// No step moves anything: θ is the start.
let still () =
    PruningOptions(Rate = Nullable 1e-30, Epochs = 2, Batch = 8, SearchShare = 0.5)

let norm (values: float[]) =
    sqrt (Array.sumBy (fun v -> v * v) values)

/// Features, probabilities and logits at the start, by loops.
let forward (net: Net) (points: float[][]) =
    let dot (a: float[]) (b: float[]) =
        Array.fold2 (fun sum a b -> sum + a * b) 0.0 a b

    let b1, b2 = (net.Start "b1")[0], (net.Start "b2")[0]

    let h =
        points
        |> Array.map (fun x -> Array.map2 (fun w b -> tanh (dot w x + b)) (net.Start "w1") b1)

    let z =
        h
        |> Array.map (fun h -> Array.map2 (fun w b -> dot w h + b) (net.Start "w2") b2)

    h, z, Rows.Softmax z

let near (actual: float[]) (expected: float[]) what =
    // what a stage gives is kept in float32
    Array.iteri2
        (fun i a e -> Expect.floatClose { absolute = 1e-6; relative = 1e-6 } a e $"{what} [{i}]")
        actual
        expected

let withFolder (action: string -> unit) =
    let folder = Directory.CreateTempSubdirectory().FullName

    try
        action folder
    finally
        Directory.Delete(folder, true)
