namespace Sama.DataOptimization

open System
open System.Collections.Generic
open Sama

/// A classifier of rows that it knows by number, as functions of θ: all that cleaning asks of a model. A model of texts
/// is made over all of them, those to train on, the clean ones and those to predict.
[<AllowNullLiteral>]
type IRowClassifier =
    inherit IDisposable

    /// Number of classes.
    abstract Classes: int

    /// Rows that it knows, 0 .. Rows − 1.
    abstract Rows: int

    /// A rate of Adam that trains it well from its start, on noisy labels.
    abstract Rate: float

    /// Names and values that training starts from, drawn by the seed where they are random; floating-point, of one type
    /// and device. The caller disposes them.
    abstract Start: seed: int64 -> IReadOnlyList<struct (string * Tensor)>

    /// What it reads of some rows: tensors on θ's device, which belong to the caller's scope. ArgumentException for no rows or one
    /// that it does not know (`Rows.Require`).
    abstract Read: rows: int[] -> Tensor[]

    /// Log-probabilities [rows, classes] of what `Read` gave, differentiable in θ; `training` asks for dropout.
    abstract LogProbabilities: theta: Params * inputs: Tensor[] * training: bool -> Tensor
