#nowarn "3535" // static abstract members, on purpose

namespace Sama.Functional

open System.Numerics
open System.Runtime.CompilerServices
open TorchSharp
open Sama

/// Elementwise arithmetic. A formula written in it once serves tensors, which differentiate it, and the registers of
/// a fused kernel; the operations and their order are the same, and so are the bits but for libtorch's square root,
/// which may be the neighbour of the nearest number.
type internal IReal<'V when 'V :> IReal<'V>> =
    static abstract Number: float -> 'V
    static abstract Add: 'V * 'V -> 'V
    static abstract Subtract: 'V * 'V -> 'V
    static abstract Multiply: 'V * 'V -> 'V
    static abstract Divide: 'V * 'V -> 'V
    static abstract Abs: 'V -> 'V
    /// √max(x, the smallest normal number): √ has an infinite derivative at 0
    static abstract Root: 'V -> 'V
    /// x a b ↦ a where x > 0, else b
    static abstract IfPositive: 'V * 'V * 'V -> 'V

/// Many numbers at once in a register of the processor.
[<Struct; NoComparison; NoEquality>]
type internal Lanes<'T when 'T: struct and 'T :> INumberBase<'T>> =
    val V: Vector<'T>
    new(v) = { V = v }

    // the compiler knows the size and keeps one branch; a conversion through INumberBase is too long to be inlined often
    [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
    static member private All(single: float32, double: float) : Vector<'T> =
        if sizeof<'T> = 4 then
            Vector.As<float32, 'T>(Vector<float32> single)
        else
            Vector.As<float, 'T>(Vector<float> double)

    interface IReal<Lanes<'T>> with
        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        static member Number(x) = Lanes(Lanes<'T>.All(float32 x, x))

        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        static member Add(a: Lanes<'T>, b: Lanes<'T>) = Lanes(a.V + b.V)

        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        static member Subtract(a: Lanes<'T>, b: Lanes<'T>) = Lanes(a.V - b.V)

        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        static member Multiply(a: Lanes<'T>, b: Lanes<'T>) = Lanes(Vector.Multiply(a.V, b.V))

        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        static member Divide(a: Lanes<'T>, b: Lanes<'T>) = Lanes(Vector.Divide(a.V, b.V))

        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        static member Abs(x: Lanes<'T>) = Lanes(Vector.Abs x.V)

        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        static member Root(x: Lanes<'T>) =
            Lanes(Vector.SquareRoot(Vector.Max(x.V, Lanes<'T>.All(1.17549435e-38f, 2.2250738585072014e-308))))

        [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
        static member IfPositive(x: Lanes<'T>, a: Lanes<'T>, b: Lanes<'T>) =
            Lanes(Vector.ConditionalSelect(Vector.GreaterThan(x.V, Vector<'T>.Zero), a.V, b.V))

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

        static member Subtract(a: Graph, b: Graph) =
            match a.Tensor, b.Tensor with
            | null, null -> Graph.Just(a.Value - b.Value)
            | null, y -> Graph.Of(-y + a.Value)
            | x, null -> Graph.Of(x - b.Value)
            | x, y -> Graph.Of(x - y)

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

        static member Abs(x: Graph) = Graph.Of(x.Tensor.abs ())
        static member Root(x: Graph) = Graph.Of((Number.floor x.Tensor).sqrt ())

        static member IfPositive(x: Graph, a: Graph, b: Graph) =
            Graph.Of(torch.where (x.Tensor.gt (Number.scalar 0.0), a.Like x.Tensor, b.Like x.Tensor))

/// The elementwise operators, dotted as in Julia, and numbers: `k 0.9 .* m .+ g`.
module internal Real =

    let inline k<'V when 'V :> IReal<'V>> (x: float) : 'V = 'V.Number x

    let inline (.+) (a: 'V when 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Add(a, b)

    let inline (.-) (a: 'V when 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Subtract(a, b)

    let inline (.*) (a: 'V when 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Multiply(a, b)

    let inline (./) (a: 'V when 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Divide(a, b)

    let inline root<'V when 'V :> IReal<'V>> (x: 'V) : 'V = 'V.Root x

    let inline magnitude<'V when 'V :> IReal<'V>> (x: 'V) : 'V = 'V.Abs x

    /// a where x > 0, else b.
    let inline ifPositive<'V when 'V :> IReal<'V>> (x: 'V) (a: 'V) (b: 'V) : 'V = 'V.IfPositive(x, a, b)

    /// The larger one; b at a tie.
    [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
    let larger<'V when 'V :> IReal<'V>> (a: 'V) (b: 'V) : 'V = 'V.IfPositive('V.Subtract(a, b), a, b)

    /// −1, 0 or 1.
    [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
    let sign<'V when 'V :> IReal<'V>> (x: 'V) : 'V =
        let negative = 'V.IfPositive('V.Multiply(x, 'V.Number -1.0), 'V.Number -1.0, 'V.Number 0.0)
        'V.IfPositive(x, 'V.Number 1.0, negative)

    /// What a rule sees of a gradient: negated to maximise, plus coupled decay.
    [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
    let seen<'V when 'V :> IReal<'V>> (maximize: bool) (decay: float) (g: 'V) (theta: 'V) : 'V =
        let g = if maximize then 'V.Multiply(g, 'V.Number -1.0) else g

        if decay = 0.0 then
            g
        else
            'V.Add(g, 'V.Multiply(theta, 'V.Number decay))
