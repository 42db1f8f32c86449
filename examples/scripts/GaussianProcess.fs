/// Regression by a Gaussian process, and expected improvement, for searches with few trainings.
module GaussianProcess

open MathNet.Numerics.Distributions
open MathNet.Numerics.LinearAlgebra
open MathNet.Numerics.Statistics

/// Mean and standard deviation of the value at a point of the unit cube, from values at others (at least two): Matérn's 5/2
/// kernel, whose length and noise are those of the highest marginal likelihood among 15.
let fit (xs: float[][]) (ys: float[]) : float[] -> struct (float * float) =
    let mean, deviation = Statistics.Mean ys, max 1e-9 (Statistics.StandardDeviation ys)
    let y = Vector<float>.Build.Dense [| for y in ys -> (y - mean) / deviation |]

    let kernel length (a: float[]) (b: float[]) =
        let r =
            sqrt 5.0 * sqrt (Array.fold2 (fun sum a b -> sum + (a - b) ** 2.0) 0.0 a b)
            / length

        (1.0 + r + r * r / 3.0) * exp -r

    let fitted =
        [ for length in [ 0.2; 0.4; 0.8; 1.6; 3.2 ] do
              for noise in [ 1e-3; 1e-2; 1e-1 ] ->
                  let k =
                      Matrix<float>.Build
                          .Dense(
                              xs.Length,
                              xs.Length,
                              fun i j -> kernel length xs[i] xs[j] + if i = j then noise else 0.0
                          )

                  let factor = k.Cholesky()
                  let weights = factor.Solve y

                  {| Fit = y * weights + factor.DeterminantLn
                     Length = length
                     Factor = factor
                     Weights = weights |} ]
        |> List.minBy _.Fit

    fun x ->
        let k = Vector<float>.Build.Dense [| for own in xs -> kernel fitted.Length own x |]
        let variance = max 1e-12 (1.0 - k * fitted.Factor.Solve k)
        struct (mean + deviation * (k * fitted.Weights), deviation * sqrt variance)

/// How much smaller than the best a value is expected to be (Jones, Schonlau and Welch 1998).
let expectedImprovement (best: float) (struct (mean: float, deviation: float)) =
    let z = (best - mean) / deviation
    (best - mean) * Normal.CDF(0.0, 1.0, z) + deviation * Normal.PDF(0.0, 1.0, z)
