#nowarn "3535" // static abstract members, on purpose

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// A number of a formula: an option, or what is computed of options. A learned option's derivative is taken with a tensor
/// in the number's place, 0-D in float64, or one number a coordinate; `Value` is NaN then, unless it is one number.
[<Struct; NoComparison; NoEquality>]
type internal Coefficient =
    {
        Value: float
        /// null for a plain number
        Tensor: Tensor
        /// false where a learned option has a part in it: 0 is then a value, and not a thing that is off
        Fixed: bool
    }

    static member Of(x: float) : Coefficient =
        { Value = x
          Tensor = null
          Fixed = true }

    /// A learned number.
    static member Learned(x: float) : Coefficient =
        { Value = x
          Tensor = null
          Fixed = false }

    static member Learned(x: Tensor) : Coefficient =
        { Value = (if x.dim () = 0L then Number.read (x.detach ()) else nan)
          Tensor = x
          Fixed = false }

    /// A part of the formula that is not there.
    member x.IsOff = x.Fixed && x.Value = 0.0

    /// The number, to branch by. InvalidOperationException where every coordinate has its own.
    member x.Single(name: string) : float =
        if not (isNull x.Tensor) && x.Tensor.dim () > 0L then
            invalidOp $"option {name} decides how the rule goes on, so it is one number, not one a coordinate"

        x.Value

    static member private Map(x: Coefficient, value: float -> float, tensor: Tensor -> Tensor) : Coefficient =
        { Value = value x.Value
          Tensor = if isNull x.Tensor then null else tensor x.Tensor
          Fixed = x.Fixed }

    static member private Join
        (x: Coefficient, y: Coefficient, value: float -> float -> float, tensor: Tensor -> Tensor -> Tensor)
        : Coefficient =
        let joined =
            if isNull x.Tensor && isNull y.Tensor then
                null
            else
                let like = if isNull x.Tensor then y.Tensor else x.Tensor

                let whole (c: Coefficient) =
                    if isNull c.Tensor then
                        torch.tensor (c.Value, dtype = like.dtype, device = like.device)
                    else
                        c.Tensor

                tensor (whole x) (whole y)

        { Value = value x.Value y.Value
          Tensor = joined
          Fixed = x.Fixed && y.Fixed }

    /// xʸ for positive x.
    member x.Power(y: Coefficient) : Coefficient =
        Coefficient.Join(x, y, (fun x y -> x ** y), (fun x y -> x.pow y))

    /// t times the number, in t's type.
    member x.Times(t: Tensor) : Tensor =
        if isNull x.Tensor then
            t * x.Value
        else
            t * x.Tensor.to_type t.dtype

    /// t over the number.
    member x.Under(t: Tensor) : Tensor =
        if isNull x.Tensor then
            t / x.Value
        else
            t / x.Tensor.to_type t.dtype

    /// t plus the number.
    member x.Plus(t: Tensor) : Tensor =
        if isNull x.Tensor then
            t + x.Value
        else
            t + x.Tensor.to_type t.dtype

    /// The larger one of t and the number.
    member x.AtLeast(t: Tensor) : Tensor =
        if isNull x.Tensor then
            t.clamp_min (Number.scalar x.Value)
        else
            torch.maximum (t, x.Tensor.to_type t.dtype)

    interface IReal<Coefficient> with
        static member Number(x) = x

        static member Add(x: Coefficient, y) =
            Coefficient.Join(x, y, (fun x y -> x + y), (fun x y -> x + y))

        static member Multiply(x: Coefficient, y) =
            Coefficient.Join(x, y, (fun x y -> x * y), (fun x y -> x * y))

        static member Divide(x: Coefficient, y) =
            Coefficient.Join(x, y, (fun x y -> x / y), (fun x y -> x / y))

        static member Abs(x: Coefficient) =
            Coefficient.Map(x, abs, (fun t -> t.abs ()))

        static member Root(x: Coefficient) =
            Coefficient.Map(x, sqrt, (fun t -> t.sqrt ()))

        static member IfPositive(x: Coefficient, a, b) =
            if x.Single "compared" > 0.0 then a else b

        static member Through(value: Coefficient, _) = value

        static member Weigh(x: Coefficient, a: Coefficient, y: Coefficient, b: Coefficient) =
            let scaled (x: Coefficient) by =
                Coefficient.Join(x, by, (fun x y -> x * y), (fun x y -> x * y))

            Coefficient.Join(scaled x a, scaled y b, (fun x y -> x + y), (fun x y -> x + y))

/// Elementwise arithmetic. A formula written in it once serves tensors, which differentiate it, and the blocks of
/// a kernel; the operations and their order are the same, and so are the bits but for libtorch's square root,
/// which may be the neighbour of the nearest number.
and internal IReal<'V when 'V :> IReal<'V>> =
    static abstract Number: Coefficient -> 'V
    static abstract Add: 'V * 'V -> 'V
    static abstract Multiply: 'V * 'V -> 'V
    static abstract Divide: 'V * 'V -> 'V
    static abstract Abs: 'V -> 'V
    static abstract Root: 'V -> 'V
    static abstract IfPositive: 'V * 'V * 'V -> 'V
    /// a number with the derivative of another one, which kernels have no use for and do not compute
    static abstract Through: value: 'V * slope: (unit -> 'V) -> 'V
    static abstract Weigh: 'V * Coefficient * 'V * Coefficient -> 'V

/// The numbers of a rule's options by name, at the learned options' values.
[<Sealed>]
type internal Given(numbers: (string * float) list, learned: (string * Coefficient) list) =
    let all = dict [ for name, value in numbers -> name, Coefficient.Of value ]
    let own = dict learned

    /// The number of an option.
    member _.Item
        with get (name: string): Coefficient =
            match own.TryGetValue name with
            | true, value -> value
            | _ -> all[name]

    /// None of them is a tensor: kernels serve.
    member _.Plain = learned |> List.forall (fun (_, x) -> isNull x.Tensor)

/// The elementwise operators, dotted as in Julia, and numbers: `k 0.9 .* m .+ g`.
module internal Real =

    let k<'V when 'V :> IReal<'V>> (x: float) : 'V = 'V.Number(Coefficient.Of x)

    /// A number that may be learned.
    let c<'V when 'V :> IReal<'V>> (x: Coefficient) : 'V = 'V.Number x

    let (.+) (a: 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Add(a, b)

    let (.*) (a: 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Multiply(a, b)

    let (./) (a: 'V :> IReal<'V>) (b: 'V) : 'V = 'V.Divide(a, b)

    /// a·x + b·y
    let weigh (x: 'V :> IReal<'V>) (a: Coefficient) (y: 'V) (b: Coefficient) : 'V = 'V.Weigh(x, a, y, b)

    let (.-) (a: 'V :> IReal<'V>) (b: 'V) : 'V =
        weigh a (Coefficient.Of 1.0) b (Coefficient.Of -1.0)

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
    let seen (maximize: bool) (decay: Coefficient) (g: 'V :> IReal<'V>) (theta: 'V) : 'V =
        let g = if maximize then g .* k (-1.0) else g
        if decay.IsOff then g else g .+ theta .* c decay
