/// Learning from wrong labels on several ranks: each takes its own rows of every batch. On two of this machine:
/// ./build.sh run-ranks 2 SharedRows
module SharedRows.Program

open TorchSharp
open Sama
open Sama.Functional

/// Two Gaussian classes, a quarter of the labels wrong; the same on every rank.
let private sample (seed: int64) (count: int64) (isWrong: bool) =
    use generator = new torch.Generator(uint64 seed)

    let truth =
        torch.randint (2L, [| count |], dtype = torch.int64, generator = generator)

    let x =
        torch.randn ([| count; 8L |], generator = generator)
        + truth.unsqueeze (1L) * 0.8

    let flipped = torch.rand(count, generator = generator).lt (Scalar.op_Implicit 0.5)

    x,
    (if isWrong then
         truth.where (flipped.logical_not (), torch.zeros_like truth)
     else
         truth)

let private losses (theta: Params) (x: Tensor, y: Tensor) : Tensor =
    let hidden = torch.tanh (torch.nn.functional.linear (x, theta["W1"], theta["b1"]))
    let logits = torch.nn.functional.linear (hidden, theta["W2"])
    torch.nn.functional.cross_entropy (logits, y, reduction = torch.nn.Reduction.None)

let private weights (lambda: Params) (losses: Tensor) (labels: Tensor) : Tensor =
    torch.sigmoid (losses * lambda["slope"] + lambda["bias"].index_select (0L, labels))

[<EntryPoint>]
let main _ =
    Native.initialize ()
    use ranks = Ranks.start RankOptions.Default

    let noisy, clean, test =
        sample 1L 4000L true, sample 2L 200L false, sample 3L 2000L false

    // 64 rows of a base batch and 32 of a meta batch, whatever the number of ranks
    let shared rows size =
        Batches.create
            { Sampling.Of(size / ranks.Size) with
                Ranks = ranks.Size }
            (Rows.pair (fst rows) (snd rows))

    let problem =
        Problem.create
            BilevelOptions.Default
            Hypergradient.sama
            [ Level.create
                  "classifier"
                  [ "W1", torch.randn (32L, 8L) * 0.3
                    "b1", torch.zeros 32L
                    "W2", torch.randn (2L, 32L) * 0.2 ]
                  (adam 1e-2)
                  (shared noisy 64)
                  (fun pass theta lambda batch ->
                      let own = losses theta batch
                      (weights lambda (pass.Stop("losses", own)) (snd batch) * own).mean ())
              Level.create
                  "weights"
                  [ "slope", torch.zeros 1L; "bias", torch.zeros 2L ]
                  (adam 3e-2)
                  (shared clean 32)
                  (fun _ theta _ batch -> (losses theta batch).mean ()) ]
        |> Problem.onRanks ranks

    use run = new BilevelRun(problem, 0L)

    for _ in 1..600 do
        let report = run.Step()

        if ranks.Rank = 0 && report.Step % 100L = 0L then
            printfn $"{report}"

    if ranks.Rank = 0 then
        let x, y = test

        let hidden =
            torch.tanh (torch.nn.functional.linear (x, run.Theta["W1"], run.Theta["b1"]))

        let found = torch.nn.functional.linear(hidden, run.Theta["W2"]).argmax 1L
        let right = found.eq(y).to_type(torch.float32).mean().item<float32> ()
        printfn $"accuracy on clean rows: {right:F3}, on {ranks.Size} ranks ({ranks.Library})"

    0
