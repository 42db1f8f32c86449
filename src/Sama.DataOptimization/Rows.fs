namespace Sama.DataOptimization

open System
open TorchSharp

type private Tensor = torch.Tensor

/// Tensors to rows of numbers, which is what the statistics of this library work on.
[<AbstractClass; Sealed>]
type Rows =

    /// ArgumentException for no numbers of rows, or a number that is not one of `count` rows'.
    static member Require(rows: int[], count: int) : unit =
        Check.nonEmpty (nameof rows) rows

        for row in rows do
            Check.that (nameof rows) (row >= 0 && row < count) (fun () -> $"row {row} is not one of the {count} rows")

    /// The rows of a [n, d] tensor of any floating dtype and device as float64; the tensor is borrowed.
    /// ArgumentException if it has not two dimensions.
    static member FromTensor(values: torch.Tensor) : float[][] =
        Check.notNull (nameof values) values
        Check.that (nameof values) (values.dim () = 2L) (fun () -> $"{values.dim ()} dimensions, 2 are expected")
        use _ = torch.NewDisposeScope()

        let flat =
            values.detach().``to``(torch.float64).cpu().contiguous().data<float>().ToArray()

        Array.chunkBySize (int values.shape[1]) flat

    /// The entries of a [n] tensor of any floating dtype and device as float64; the tensor is borrowed.
    /// ArgumentException if it has not one dimension.
    static member Vector(values: torch.Tensor) : float[] =
        Check.notNull (nameof values) values
        Check.that (nameof values) (values.dim () = 1L) (fun () -> $"{values.dim ()} dimensions, 1 is expected")
        use _ = torch.NewDisposeScope()
        values.detach().``to``(torch.float64).cpu().contiguous().data<float>().ToArray()

    /// Probabilities of rows of logits or log-probabilities, softmax of each row. ArgumentException if a row's width
    /// differs or an entry is not finite.
    static member Softmax(logits: float[][]) : float[][] =
        Check.matrix (nameof logits) logits |> ignore
        Array.map Simplex.softmax logits

    /// The class of the largest entry of each row, the first of equal ones.
    static member Argmax(values: float[][]) : int[] =
        Check.matrix (nameof values) values |> ignore
        Array.map Simplex.argmax values
