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

    static member private Number(c: Coefficient) : Graph =
        if isNull c.Tensor then
            Graph.Just c.Value
        else
            Graph.Of c.Tensor

    static member private Sum(a: Graph, b: Graph) : Graph =
        match a.Tensor, b.Tensor with
        | null, null -> Graph.Just(a.Value + b.Value)
        | null, y -> Graph.Of(y + a.Value)
        | x, null -> Graph.Of(x + b.Value)
        | x, y -> Graph.Of(x + y)

    static member private Product(a: Graph, b: Graph) : Graph =
        match a.Tensor, b.Tensor with
        | null, null -> Graph.Just(a.Value * b.Value)
        | null, y -> Graph.Of(y * a.Value)
        | x, null -> Graph.Of(x * b.Value)
        | x, y -> Graph.Of(x * y)

    /// The tensor; a number in the shape of another tensor.
    member a.Like(other: Tensor) : Tensor =
        if isNull a.Tensor then
            torch.full_like (other, Number.scalar a.Value)
        else
            a.Tensor

    interface IReal<Graph> with
        static member Number(c) = Graph.Number c

        static member Add(a: Graph, b: Graph) = Graph.Sum(a, b)

        static member Multiply(a: Graph, b: Graph) = Graph.Product(a, b)

        static member Divide(a: Graph, b: Graph) =
            match a.Tensor, b.Tensor with
            | null, null -> Graph.Just(a.Value / b.Value)
            | null, y -> Graph.Of(a.Like y / y)
            | x, null -> Graph.Of(x / b.Value)
            | x, y -> Graph.Of(x / y)

        static member Weigh(x: Graph, a, y: Graph, b) =
            if isNull a.Tensor && isNull b.Tensor then
                let a, b = a.Value, b.Value

                match x.Tensor, y.Tensor with
                | null, null -> Graph.Just(x.Value * a + y.Value * b)
                | null, t -> Graph.Of(t * b + x.Value * a)
                | t, null -> Graph.Of(t * a + y.Value * b)
                | s, t -> Graph.Of(s * a + t * b)
            else
                Graph.Sum(Graph.Product(x, Graph.Number a), Graph.Product(y, Graph.Number b))

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
