module Sama.DataOptimization.Tests.SelfTrainingTests

open System
open Expecto
open TorchSharp
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let private tensor (rows: float[][]) : torch.Tensor =
    torch.tensor(Array.concat rows, dtype = torch.float64).reshape (int64 rows.Length, -1L)

let private drawn seed =
    let random = Random seed
    probabilities random 6 3 1.5, labels random 6 3

let private entropy (p: float[]) = -(Array.sumBy (fun p -> p * log p) p)

/// Gradient of a scalar function at a matrix by central differences.
let private differences (f: float[][] -> float) (x: float[][]) =
    x
    |> Array.mapi (fun i row ->
        row
        |> Array.mapi (fun j value ->
            let moved by =
                x
                |> Array.mapi (fun a r -> r |> Array.mapi (fun b v -> if a = i && b = j then value + by else v))

            (f (moved 1e-6) - f (moved -1e-6)) / 2e-6))

let private gradient (f: torch.Tensor -> torch.Tensor) (x: float[][]) : float[][] =
    use _ = torch.NewDisposeScope()
    let x = (tensor x).requires_grad_ true
    (f x).backward ()
    Rows.FromTensor x.grad

/// That a function leaves nothing behind but its result.
let private live (make: unit -> torch.Tensor) =
    use scope = torch.NewDisposeScope()
    use _ = make ()
    let before = torch.Tensor.TotalCount
    let made = make ()
    Expect.equal torch.Tensor.TotalCount (before + 1L) "one more tensor"
    made.Dispose()

let tests =
    testList
        "self-training and bootstrapping"
        [ property "confidence is 1 − H/log C: 0 for uniform, 1 for certain, by its formula between"
          <| fun seed ->
              use _ = torch.NewDisposeScope()
              let p, _ = drawn seed
              let extended = Array.append p [| [| 1.0; 0.0; 0.0 |]; Array.create 3 (1.0 / 3.0) |]
              let confidence = Rows.Vector(SelfTraining.Confidence(tensor extended))

              closeAll
                  confidence
                  (Array.append (p |> Array.map (fun p -> 1.0 - entropy p / log 3.0)) [| 1.0; 0.0 |])
                  "confidence"

          property "soft pseudo-labels: squares over class frequencies, rows to 1, by plain loops"
          <| fun seed ->
              use _ = torch.NewDisposeScope()
              let p, _ = drawn seed
              let f = Array.init 3 (fun c -> p |> Array.sumBy (fun p -> p[c]))

              let expected =
                  p
                  |> Array.map (fun p ->
                      let t = Array.map2 (fun p f -> p * p / f) p f
                      t |> Array.map (fun x -> x / Array.sum t))

              let actual = Rows.FromTensor(SelfTraining.SoftPseudoLabels(tensor p))
              closeAll (Array.concat actual) (Array.concat expected) "labels"

          property "loss, regulariser and weights, by plain loops"
          <| fun seed ->
              use _ = torch.NewDisposeScope()
              let p, _ = drawn seed
              let t, _ = drawn (seed + 1)
              let logs = tensor (p |> Array.map (Array.map log))
              let weights = SelfTraining.Weights(tensor t, 0.2)

              let w =
                  t
                  |> Array.map (fun t -> let c = 1.0 - entropy t / log 3.0 in if c >= 0.2 then c else 0.0)

              closeAll (Rows.Vector weights) w "weights"

              let kl =
                  Array.map3 (fun w t p -> w * Array.sum (Array.map2 (fun t p -> t * log (t / p)) t p)) w t p

              close (SelfTraining.Loss(logs, tensor t, weights).ToDouble()) (Array.average kl) "loss"

              let uniform =
                  p
                  |> Array.averageBy (fun p -> p |> Array.sumBy (fun p -> log (1.0 / 3.0 / p) / 3.0))

              close (SelfTraining.ConfidenceRegulariser(logs).ToDouble()) uniform "regulariser"

          property "the contrastive loss is its pairwise formula, and so is its gradient; a pair at distance 0 has none"
          <| fun seed ->
              use _ = torch.NewDisposeScope()
              let random = Random seed
              let x = Array.init 5 (fun _ -> Array.init 4 (fun _ -> normal random))
              let y = labels random 5 2

              let plain (x: float[][]) =
                  [ for i in 0..4 do
                        for j in i + 1 .. 4 do
                            let squared = Array.map2 (fun a b -> pown (a - b) 2) x[i] x[j] |> Array.average

                            if y[i] = y[j] then
                                squared
                            else
                                pown (max 0.0 (1.0 - sqrt squared)) 2 ]
                  |> List.average

              let classes = torch.tensor (y |> Array.map int64)

              let loss (x: torch.Tensor) =
                  SelfTraining.ContrastiveLoss(x, classes)

              close ((loss (tensor x)).ToDouble()) (plain x) "value"

              let actual, expected =
                  Array.concat (gradient loss x), Array.concat (differences plain x)

              Array.iter2 (fun a e -> Expect.isLessThan (abs (a - e)) 1e-6 "gradient") actual expected
              let same = Array.create 3 [| 1.0; 2.0 |]
              let apart = torch.tensor [| 0L; 1L; 1L |]
              let still = gradient (fun x -> SelfTraining.ContrastiveLoss(x, apart)) same
              closeAll (Array.concat still) (Array.zeroCreate 6) "no gradient"

          property "bootstrapping losses, by plain loops, and the soft one's gradient through both factors"
          <| fun seed ->
              use _ = torch.NewDisposeScope()
              let p, y = drawn seed
              let targets = torch.tensor (y |> Array.map int64)
              let logs = tensor (p |> Array.map (Array.map log))
              let soft (p: float[]) y = -(0.95 * log p[y]) + 0.05 * entropy p

              let hard (p: float[]) y =
                  -(0.8 * log p[y]) - 0.2 * log (Array.max p)

              closeAll (Rows.Vector(Bootstrapping.Soft(logs, targets))) (Array.map2 soft p y) "soft"
              closeAll (Rows.Vector(Bootstrapping.Hard(logs, targets))) (Array.map2 hard p y) "hard"
              let z = p |> Array.map (Array.map log)

              let mean (z: float[][]) =
                  Array.map2 soft (Rows.Softmax z) y |> Array.average

              let actual =
                  gradient (fun z -> Bootstrapping.Soft(z.log_softmax 1L, targets).mean ()) z

              Array.iter2
                  (fun a e -> Expect.isLessThan (abs (a - e)) 1e-6 "gradient")
                  (Array.concat actual)
                  (Array.concat (differences mean z))

          testCase "nothing is left behind but the result"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let p, y = drawn 1
              let p = tensor p
              let logs = p.log ()
              let y = torch.tensor (y |> Array.map int64)
              let w = torch.ones (6L, dtype = torch.float64)

              for make in
                  [ fun () -> SelfTraining.Confidence p
                    fun () -> SelfTraining.SoftPseudoLabels p
                    fun () -> SelfTraining.Weights p
                    fun () -> SelfTraining.Loss(logs, p, w)
                    fun () -> SelfTraining.ConfidenceRegulariser(logs, w)
                    fun () -> SelfTraining.ContrastiveLoss(p, y)
                    fun () -> Bootstrapping.Soft(logs, y)
                    fun () -> Bootstrapping.Hard(logs, y) ] do
                  live make

          testCase "wrong shapes are named before libtorch sees them"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let p = tensor (fst (drawn 1))

              refused<ArgumentException> [ "pseudoLabels"; "[6, 2]" ] (fun () ->
                  SelfTraining.Loss(p, torch.ones (6L, 2L), torch.ones 6L) |> ignore)

              refused<ArgumentException> [ "labels"; "int64" ] (fun () ->
                  Bootstrapping.Soft(p, torch.ones 6L) |> ignore)

              refused<ArgumentException> [ "probabilities" ] (fun () ->
                  SelfTraining.Confidence(torch.ones 6L) |> ignore) ]
