namespace Sama.DataOptimization

open Sama

/// A classifier whose last layer is linear, log softmax(W h + b): scores of that layer are then closed forms of one forward
/// pass.
[<AllowNullLiteral>]
type ILinearHead =
    inherit IRowClassifier

    /// The last layer's inputs h [rows, d] of what `Read` gave, without dropout.
    abstract Features: theta: Params * inputs: Tensor[] -> Tensor

    /// The name of its weights W [classes, d] among the parameters.
    abstract HeadWeight: string

    /// Whether it has a bias.
    abstract HeadBias: bool
