namespace Sama.Reference

open System
open Numbers

/// P6: a Gaussian mixture whose training labels are partly flipped; linear softmax, one sigmoid weight a sample.
/// base mean σ(λᵢ)ℓᵢ + 0.2‖θ‖², meta the mean loss of a clean set. θ is classes × inputs, row-major.
type DataCleaning =
    { Inputs: Mat
      Labels: int[]
      Corrupted: bool[]
      CleanInputs: Mat
      CleanLabels: int[]
      Classes: int }

module DataCleaning =

    let draw (seed: int) samples clean dimension classes (flipped: float) : DataCleaning =
        let rng = Random seed
        let means = 2.0 * normalMatrix rng classes dimension

        let truth count =
            Array.init count (fun _ -> rng.Next classes)

        let points (labels: int[]) =
            rows [ for k in labels -> (means.Row k + normal rng dimension).ToArray() ]

        let labels, cleanLabels = truth samples, truth clean
        let corrupted = labels |> Array.map (fun _ -> rng.NextDouble() < flipped)

        { Inputs = points labels
          Labels =
            Array.map2 (fun k bad -> if bad then (k + 1 + rng.Next(classes - 1)) % classes else k) labels corrupted
          Corrupted = corrupted
          CleanInputs = points cleanLabels
          CleanLabels = cleanLabels
          Classes = classes }

    /// Factor of ‖θ‖² in the base loss.
    let decay = 0.2

    let private weights (theta: Vec) classes : Mat =
        rows (theta.ToArray() |> Array.chunkBySize (theta.Count / classes))

    /// softmax of the logits of one input
    let private probabilities (w: Mat) (x: Vec) =
        let z = w * x
        let e = each (fun a -> exp (a - z.Maximum())) z
        e / e.Sum()

    let private flat (m: Mat) =
        vector (m.EnumerateRows() |> Seq.collect id)

    /// ℓ and ∂ℓ/∂θ = (p − onehot) ⊗ x of one sample.
    let private sample (p: DataCleaning) (x: Vec) label (theta: Vec) =
        let q = probabilities (weights theta p.Classes) x
        let residual = q.Clone()
        residual[label] <- residual[label] - 1.0
        -log q[label], q, flat (residual.OuterProduct x)

    let problem (p: DataCleaning) : ReferenceProblem =
        let n, m = p.Classes * p.Inputs.ColumnCount, p.Labels.Length

        let train theta =
            [| for i in 0 .. m - 1 -> sample p (p.Inputs.Row i) p.Labels[i] theta |]

        let clean theta =
            [| for i in 0 .. p.CleanLabels.Length - 1 -> sample p (p.CleanInputs.Row i) p.CleanLabels[i] theta |]

        // ∂²ℓ/∂θ² = (diag p − ppᵀ) ⊗ xxᵀ
        let curvature (q: Vec) (x: Vec) : Mat =
            (diagonal q - q.OuterProduct q).KroneckerProduct(x.OuterProduct x)

        { Name = "P6"
          Start = zeros n
          Lambda = zeros m
          BaseLoss =
            fun theta lambda ->
                let total =
                    train theta |> Seq.mapi (fun i (l, _, _) -> sigmoid lambda[i] * l) |> Seq.sum

                total / float m + decay * (theta * theta)
          MetaLoss = fun theta _ -> clean theta |> Array.averageBy (fun (l, _, _) -> l)
          Base =
            fun theta lambda ->
                let all = train theta
                let share = each sigmoid lambda / float m

                let gradient, hessian =
                    all
                    |> Array.mapi (fun i (_, q, g) -> share[i] * g, share[i] * curvature q (p.Inputs.Row i))
                    |> Array.unzip

                { Gradient = Array.reduce (+) gradient + 2.0 * decay * theta
                  Hessian = Array.reduce (+) hessian + 2.0 * decay * identity n
                  Cross =
                    Mat.Build.DenseOfColumnVectors(
                        all |> Array.mapi (fun i (_, _, g) -> share[i] * (1.0 - sigmoid lambda[i]) * g)
                    ) }
          Meta =
            fun theta lambda ->
                let all = clean theta
                (all |> Seq.map (fun (_, _, g) -> g) |> Seq.reduce (+)) / float all.Length, 0.0 * lambda
          Solution = None }

    /// P(weight of a clean sample > weight of a corrupted one), ties one half.
    let auroc (p: DataCleaning) (lambda: Vec) : float =
        let side bad =
            [| for i in 0 .. lambda.Count - 1 do
                   if p.Corrupted[i] = bad then
                       lambda[i] |]

        let cleanOnes, corrupted = side false, side true

        Array.allPairs cleanOnes corrupted
        |> Array.averageBy (fun (a, b) ->
            if a > b then 1.0
            elif a = b then 0.5
            else 0.0)

    /// Share of the clean set that θ classifies wrongly.
    let error (p: DataCleaning) (theta: Vec) : float =
        let w = weights theta p.Classes

        Seq.init p.CleanLabels.Length (fun i ->
            if (w * p.CleanInputs.Row i).MaximumIndex() = p.CleanLabels[i] then
                0.0
            else
                1.0)
        |> Seq.average
