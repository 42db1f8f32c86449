#nowarn "3535" // static abstract members, on purpose

namespace Sama.Functional

open TorchSharp
open Sama

/// A tensor, or a number (then the tensor is null) that joins it without becoming one.
[<Struct; NoComparison; NoEquality>]
type internal Graph =
    { Tensor: Tensor
      Value: float }

    static member Of(tensor: Tensor) : Graph = { Tensor = tensor; Value = 0.0 }
    static member private Just(x: float) : Graph = { Tensor = null; Value = x }

    /// The tensor; a number in the shape of another tensor.
    member a.Like(other: Tensor) : Tensor =
        if isNull a.Tensor then
            torch.full_like (other, Number.scalar a.Value)
        else
            a.Tensor

    interface IReal<Graph> with
        static member Number(x) = Graph.Just x

        static member Add(a: Graph, b: Graph) =
            match a.Tensor, b.Tensor with
            | null, null -> Graph.Just(a.Value + b.Value)
            | null, y -> Graph.Of(y + a.Value)
            | x, null -> Graph.Of(x + b.Value)
            | x, y -> Graph.Of(x + y)

        static member Multiply(a: Graph, b: Graph) =
            match a.Tensor, b.Tensor with
            | null, null -> Graph.Just(a.Value * b.Value)
            | null, y -> Graph.Of(y * a.Value)
            | x, null -> Graph.Of(x * b.Value)
            | x, y -> Graph.Of(x * y)

        static member Divide(a: Graph, b: Graph) =
            match a.Tensor, b.Tensor with
            | null, null -> Graph.Just(a.Value / b.Value)
            | null, y -> Graph.Of(a.Like y / y)
            | x, null -> Graph.Of(x / b.Value)
            | x, y -> Graph.Of(x / y)

        static member Weigh(x: Graph, a, y: Graph, b) =
            match x.Tensor, y.Tensor with
            | null, null -> Graph.Just(x.Value * a + y.Value * b)
            | null, t -> Graph.Of(t * b + x.Value * a)
            | t, null -> Graph.Of(t * a + y.Value * b)
            | s, t -> Graph.Of(s * a + t * b)

        static member Abs(x: Graph) = Graph.Of(x.Tensor.abs ())

        static member Root(x: Graph) =
            Graph.Of((Number.floor x.Tensor).sqrt ())

        static member IfPositive(x: Graph, a: Graph, b: Graph) =
            Graph.Of(torch.where (x.Tensor.gt (Number.scalar 0.0), a.Like x.Tensor, b.Like x.Tensor))

        static member Through(value: Graph, slope: unit -> Graph) =
            let slope = (slope ()).Tensor
            // exactly the value, with a derivative beside it
            if slope.requires_grad then
                Graph.Of(value.Tensor.detach () + (slope - slope.detach ()))
            else
                value

/// The elementwise operators, dotted as in Julia, and numbers: `k 0.9 .* m .+ g`.
module internal Real =

    let k<'V when 'V :> IReal<'V>> (x: float) : 'V = 'V.Number x

    let (.+) (a: 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Add(a, b)

    let (.*) (a: 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Multiply(a, b)

    let (./) (a: 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Divide(a, b)

    /// a·x + b·y
    let weigh (x: 'V :> IReal<'V>) (a: float) (y: 'V) (b: float) : 'V = 'V.Weigh(x, a, y, b)

    let (.-) (a: 'V :> IReal<'V>) (b: 'V) : 'V = weigh a 1.0 b -1.0

    /// √max(x, the smallest normal number): √ has an infinite derivative at 0
    let root (x: 'V :> IReal<'V>) : 'V = 'V.Root x

    let magnitude (x: 'V :> IReal<'V>) : 'V = 'V.Abs x

    /// a where x > 0, else b.
    let ifPositive (x: 'V :> IReal<'V>) (a: 'V) (b: 'V) : 'V = 'V.IfPositive(x, a, b)

    /// The larger one; b at a tie.
    let larger (a: 'V :> IReal<'V>) (b: 'V) : 'V = ifPositive (a .- b) a b

    /// −1, 0 or 1.
    let sign (x: 'V :> IReal<'V>) : 'V =
        ifPositive x (k 1.0) (ifPositive (x .* k (-1.0)) (k (-1.0)) (k 0.0))

    /// What a rule sees of a gradient: negated to maximise, plus coupled decay.
    let seen (maximize: bool) (decay: float) (g: 'V :> IReal<'V>) (theta: 'V) : 'V =
        let g = if maximize then g .* k (-1.0) else g
        if decay = 0.0 then g else g .+ theta .* k decay
