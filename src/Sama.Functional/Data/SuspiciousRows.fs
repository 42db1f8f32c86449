namespace Sama

/// A row of a data set and its weight.
[<Struct; NoComparison>]
type RowWeight =
    {
        /// the row's number, from 0
        Row: int64
        /// its weight
        Weight: float
    }

    override row.ToString() = $"row {row.Row}: {row.Weight:G4}"

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Rows that a learned weighting trusts least.
module SuspiciousRows =

    /// The `count` rows of lowest weight, the lowest first; of equal weights the lower row first. All rows if there are no
    /// more. ArgumentException for a negative count and for a weight that is NaN, with its row.
    let lowest (count: int) (weights: float seq) : RowWeight[] =
        if count < 0 then
            invalidArg (nameof count) $"{count} rows are asked for"

        let rows =
            [| for i, weight in Seq.indexed weights do
                   if Double.IsNaN weight then
                       invalidArg (nameof weights) $"the weight of row {i} is NaN"

                   { Row = int64 i; Weight = weight } |]

        rows
        |> Array.sortWith (fun a b ->
            match compare a.Weight b.Weight with
            | 0 -> compare a.Row b.Row
            | order -> order)
        |> Array.truncate count

    /// The same of a vector, borrowed, of any floating type and device. ArgumentException for a tensor of more axes.
    let lowestOf (count: int) (weights: Tensor) : RowWeight[] =
        if isNull weights || weights.IsInvalid then
            invalidArg (nameof weights) "the weights are null or disposed"

        if weights.dim () <> 1L then
            let shape = String.Join("x", weights.shape)
            invalidArg (nameof weights) $"weights have one axis, one number a row; this tensor is [{shape}]"

        Scope.run (fun _ -> lowest count (weights.detach().to_type(torch.float64).cpu().data<float>().ToArray()))
