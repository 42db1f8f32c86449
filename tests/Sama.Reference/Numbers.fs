namespace Sama.Reference

open System
open MathNet.Numerics.Distributions
open MathNet.Numerics.LinearAlgebra

type Vec = Vector<float>
type Mat = Matrix<float>

/// Dense float64 vectors and matrices, seeded draws, and differences.
module Numbers =

    let vector (values: float seq) : Vec = Vec.Build.DenseOfEnumerable values
    let rows (values: float[] seq) : Mat = Mat.Build.DenseOfRowArrays values
    let identity n : Mat = Mat.Build.DenseIdentity n
    let diagonal (v: Vec) : Mat = Mat.Build.DenseOfDiagonalVector v
    let zeros (n: int) : Vec = Vec.Build.Dense n
    let norm (v: Vec) = v.L2Norm()

    /// f of every entry
    let each (f: float -> float) (v: Vec) : Vec = v.Map(Func<float, float> f)

    let times (a: Vec) (b: Vec) : Vec = a.PointwiseMultiply b

    let sigmoid (z: float) = 1.0 / (1.0 + exp -z)

    /// log(1 + eᶻ) without overflow
    let softplus (z: float) =
        max z 0.0 + Math.Log(1.0 + exp -(abs z))

    /// Entries in [0, 1), and N(0, 1); the generator is the seed's own.
    let uniform (rng: Random) n : Vec =
        vector [ for _ in 1..n -> rng.NextDouble() ]

    let normal (rng: Random) n : Vec =
        vector [ for _ in 1..n -> Normal.Sample(rng, 0.0, 1.0) ]

    let uniformMatrix (rng: Random) r c : Mat =
        rows [ for _ in 1..r -> (uniform rng c).ToArray() ]

    let normalMatrix (rng: Random) r c : Mat =
        rows [ for _ in 1..r -> (normal rng c).ToArray() ]

    /// Orthonormal columns: Q of a drawn square matrix.
    let orthogonal (rng: Random) n : Mat = (normalMatrix rng n n).QR().Q

    /// n numbers from 10^low to 10^high
    let logspace low high n : Vec =
        vector [ for i in 0 .. n - 1 -> 10.0 ** (low + (high - low) * float i / float (max 1 (n - 1))) ]

    /// ‖a − b‖/‖b‖
    let relativeError (a: Vec) (b: Vec) = norm (a - b) / max (norm b) 1e-300

    /// a·b as if summed in twice the precision (Ogita, Rump and Oishi, Accurate sum and dot product, 2005).
    let preciseDot (a: Vec) (b: Vec) : float =
        let twoSum x y =
            let sum = x + y
            let z = sum - x
            sum, (x - (sum - z)) + (y - z)

        let add (sum, rest) (x: float, y: float) =
            let product = x * y
            let sum, lost = twoSum sum product
            sum, rest + lost + Math.FusedMultiplyAdd(x, y, -product)

        let sum, rest = Seq.zip a b |> Seq.fold add (0.0, 0.0)
        sum + rest

    /// a·b/(‖a‖‖b‖), 0 if a = 0
    let cosine (a: Vec) (b: Vec) =
        if norm a = 0.0 then 0.0 else a * b / (norm a * norm b)

    /// Jacobian (outputs × inputs) of f at x by central differences of order 6 with step h.
    let differences (f: Vec -> Vec) (h: float) (x: Vec) : Mat =
        let column i =
            let e = zeros x.Count
            e[i] <- h

            [ 1.0, 45.0; 2.0, -9.0; 3.0, 1.0 ]
            |> List.map (fun (k, c) -> c * (f (x + k * e) - f (x - k * e)))
            |> List.reduce (+)
            |> fun total -> total / (60.0 * h)

        Mat.Build.DenseOfColumnVectors [| for i in 0 .. x.Count - 1 -> column i |]

    /// Gradient of a scalar function by the same differences.
    let gradientByDifferences (f: Vec -> float) h x : Vec =
        (differences (fun x -> vector [ f x ]) h x).Row 0
