#nowarn "9" "3535" // raw storage and static abstract members, on purpose

namespace Sama.Functional

open System
open System.Numerics
open System.Runtime.CompilerServices
open Microsoft.FSharp.NativeInterop

/// Some numbers that lie one behind the other, or one number (then there is no scratch) that joins them.
[<Struct; NoComparison; NoEquality>]
type internal Numbers =
    { Scratch: Scratch
      Address: nativeint
      Value: float }

    member x.IsOne = isNull x.Scratch

/// The loops behind the operations: inlined by the F# compiler, so that nothing hangs on what the JIT inlines.
module internal Loops =

    let pointer (address: nativeint) =
        NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> address)

    let copy (from: nativeint) (target: nativeint) (bytes: nativeint) : unit =
        Buffer.MemoryCopy(pointer from, pointer target, int64 bytes, int64 bytes)

    let one (x: float) : Numbers =
        { Scratch = null
          Address = 0n
          Value = x }

    let many (scratch: Scratch) (address: nativeint) : Numbers =
        { Scratch = scratch
          Address = address
          Value = 0.0 }

    /// The number, rounded to the type, in every place of a register.
    let all<'T when 'T: struct> (x: float) : Vector<'T> =
        if sizeof<'T> = 4 then
            Vector.As<float32, 'T>(Vector<float32>(float32 x))
        else
            Vector.As<float, 'T>(Vector<float> x)

    let inline load<'T when 'T: struct> (address: nativeint) (i: nativeint) : Vector<'T> =
        Unsafe.ReadUnaligned<Vector<'T>>(NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> (address + i)))

    /// f(offset) at the target.
    let inline fillAt<'T when 'T: struct>
        (target: nativeint)
        (bytes: nativeint)
        ([<InlineIfLambda>] f: nativeint -> Vector<'T>)
        : unit =
        let mutable i = 0n

        while i < bytes do
            Unsafe.WriteUnaligned(NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> (target + i)), f i)
            i <- i + nativeint sizeof<Vector<'T>>

    /// f(offset) in a free block.
    let inline fill<'T when 'T: struct> (scratch: Scratch) ([<InlineIfLambda>] f: nativeint -> Vector<'T>) : Numbers =
        let target = scratch.Take()
        fillAt target scratch.Width f
        many scratch target

    let inline unary<'T when 'T: struct>
        (x: Numbers)
        ([<InlineIfLambda>] onOne: float -> float)
        ([<InlineIfLambda>] f: Vector<'T> -> Vector<'T>)
        : Numbers =
        if x.IsOne then
            one (onOne x.Value)
        else
            let at = x.Address
            fill x.Scratch (fun i -> f (load<'T> at i))

    let inline binary<'T when 'T: struct>
        (a: Numbers)
        (b: Numbers)
        ([<InlineIfLambda>] onOnes: float -> float -> float)
        ([<InlineIfLambda>] f: Vector<'T> -> Vector<'T> -> Vector<'T>)
        : Numbers =
        if a.IsOne && b.IsOne then
            one (onOnes a.Value b.Value)
        elif a.IsOne then
            let x = all<'T> a.Value
            let y = b.Address
            fill b.Scratch (fun i -> f x (load<'T> y i))
        elif b.IsOne then
            let x = a.Address
            let y = all<'T> b.Value
            fill a.Scratch (fun i -> f (load<'T> x i) y)
        else
            let x = a.Address
            let y = b.Address
            fill a.Scratch (fun i -> f (load<'T> x i) (load<'T> y i))

    /// Where the numbers lie, and which bits of an offset move there: none for one number, which fills one register.
    let spread<'T when 'T: struct> (scratch: Scratch) (x: Numbers) : struct (nativeint * nativeint) =
        if x.IsOne then
            let place = scratch.Take()
            Unsafe.WriteUnaligned(pointer place, all<'T> x.Value)
            struct (place, 0n)
        else
            struct (x.Address, -1n)

/// Numbers of a type with their arithmetic: every operation is one loop over the first-level cache.
[<Struct; NoComparison; NoEquality>]
type internal Block<'T when 'T: struct>(numbers: Numbers) =

    /// A tensor's numbers: where they lie if they are whole registers, else a copy that is.
    static member Read(scratch: Scratch, address: nativeint, bytes: nativeint) : Block<'T> =
        if bytes = scratch.Width then
            Block(Loops.many scratch address)
        else
            let copied = scratch.Take()
            Loops.copy address copied bytes
            Block(Loops.many scratch copied)

    /// Writes to a tensor.
    member _.Write(scratch: Scratch, address: nativeint, bytes: nativeint) : unit =
        let from =
            if numbers.IsOne then
                let value = Loops.all<'T> numbers.Value
                (Loops.fill<'T> scratch (fun _ -> value)).Address
            else
                numbers.Address

        if from <> address then
            Loops.copy from address bytes

    /// Multiplies a tensor's numbers, in place.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    member _.Scale(scratch: Scratch, address: nativeint, bytes: nativeint) : unit =
        let ragged = bytes <> scratch.Width

        let place =
            if ragged then
                let copied = scratch.Take()
                Loops.copy address copied bytes
                copied
            else
                address

        let struct (factors, move) = Loops.spread<'T> scratch numbers

        Loops.fillAt<'T> place scratch.Width (fun i ->
            Vector.Multiply(Loops.load<'T> factors (i &&& move), Loops.load<'T> place i))

        if ragged then
            Loops.copy place address bytes

    member _.Numbers = numbers

    /// Whether the numbers in so many bytes are finite: x − x is 0 for finite x, NaN for others.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    member _.IsFinite(bytes: nativeint) : bool =
        if numbers.IsOne then
            Double.IsFinite numbers.Value
        else
            let register = nativeint sizeof<Vector<'T>>
            let mutable sum = Vector<'T>.Zero
            let mutable i = 0n

            while i + register <= bytes do
                let x = Loops.load<'T> numbers.Address i
                sum <- Vector.Add(sum, Vector.Subtract(x, x))
                i <- i + register

            let mutable finite = Vector.EqualsAll(sum, Vector<'T>.Zero)

            // what lies behind the last number is nobody's
            if i < bytes then
                let x = Loops.load<'T> numbers.Address i

                let zero =
                    Vector.AsVectorByte(Vector.Equals(Vector.Subtract(x, x), Vector<'T>.Zero))

                for place in 0 .. int (bytes - i) - 1 do
                    finite <- finite && zero[place] <> 0uy

            finite

    interface IReal<Block<'T>> with
        static member Number(c) = Block(Loops.one c.Value)

        [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
        static member Add(a: Block<'T>, b: Block<'T>) =
            Block(Loops.binary<'T> a.Numbers b.Numbers (fun x y -> x + y) (fun x y -> Vector.Add(x, y)))

        [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
        static member Multiply(a: Block<'T>, b: Block<'T>) =
            Block(Loops.binary<'T> a.Numbers b.Numbers (fun x y -> x * y) (fun x y -> Vector.Multiply(x, y)))

        [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
        static member Divide(a: Block<'T>, b: Block<'T>) =
            Block(Loops.binary<'T> a.Numbers b.Numbers (fun x y -> x / y) (fun x y -> Vector.Divide(x, y)))

        [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
        static member Abs(x: Block<'T>) =
            Block(Loops.unary<'T> x.Numbers (fun x -> abs x) (fun x -> Vector.Abs x))

        [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
        static member Root(x: Block<'T>) =
            let least =
                if sizeof<'T> = 4 then
                    1.17549435e-38
                else
                    2.2250738585072014e-308

            let floor = Loops.all<'T> least

            Block(
                Loops.unary<'T> x.Numbers (fun x -> sqrt (max x least)) (fun x ->
                    // NaN stays NaN
                    Vector.SquareRoot(Vector.ConditionalSelect(Vector.LessThan(x, floor), floor, x)))
            )

        [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
        static member Weigh(x: Block<'T>, a, y: Block<'T>, b) =
            let a = a.Value
            let b = b.Value
            let left = Loops.all<'T> a
            let right = Loops.all<'T> b

            Block(
                Loops.binary<'T> x.Numbers y.Numbers (fun x y -> x * a + y * b) (fun x y ->
                    Vector.Add(Vector.Multiply(x, left), Vector.Multiply(y, right)))
            )

        [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
        static member IfPositive(x: Block<'T>, a: Block<'T>, b: Block<'T>) =
            let test = x.Numbers

            if test.IsOne then
                if test.Value > 0.0 then a else b
            else
                let scratch = test.Scratch
                let at = test.Address
                let struct (yes, moveYes) = Loops.spread<'T> scratch a.Numbers
                let struct (no, moveNo) = Loops.spread<'T> scratch b.Numbers

                Block(
                    Loops.fill<'T> scratch (fun i ->
                        Vector.ConditionalSelect(
                            Vector.GreaterThan(Loops.load<'T> at i, Vector<'T>.Zero),
                            Loops.load<'T> yes (i &&& moveYes),
                            Loops.load<'T> no (i &&& moveNo)
                        ))
                )

        static member Through(value: Block<'T>, _: unit -> Block<'T>) = value
