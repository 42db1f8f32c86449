namespace Sama.Language

open System
open System.Runtime.InteropServices
open System.Runtime.Intrinsics
open TorchSharp
open Sama
open Sama.Functional

/// Masks of dropout on the CPU. libtorch draws them number by number, which takes a tenth of a small encoder's forward
/// pass; here eight generators of their own fill them, seeded by one number of libtorch's generator, so that a draw fixes
/// them as it fixes libtorch's.
module internal DropoutMask =

    /// SplitMix64 (Steele et al., 2014): the state that follows, and its number.
    let private splitMix (state: uint64) : struct (uint64 * uint64) =
        let state = state + 0x9E3779B97F4A7C15UL
        let z = (state ^^^ (state >>> 30)) * 0xBF58476D1CE4E5B9UL
        let z = (z ^^^ (z >>> 27)) * 0x94D049BB133111EBUL
        struct (state, z ^^^ (z >>> 31))

    let private rotate (x: Vector256<uint32>) (by: int) : Vector256<uint32> =
        Vector256.BitwiseOr(Vector256.ShiftLeft(x, by), Vector256.ShiftRightLogical(x, 32 - by))

    /// Eight lanes of state from the numbers that follow `seed`.
    let private lanes (seed: byref<uint64>) : Vector256<uint32> =
        let values = Array.zeroCreate<uint32> 8

        for i in 0..7 do
            let struct (next, number) = splitMix seed
            seed <- next
            values[i] <- uint32 (number >>> 32)

        Vector256.LoadUnsafe &values[0]

    /// Sets entries to 0 with probability `share` and to `value` otherwise: xoshiro128++ in eight lanes (Blackman and
    /// Vigna, 2021), a number of 32 bits an entry.
    let fill (seed: int64) (share: float) (value: float32) (target: Span<float32>) : unit =
        let mutable state = uint64 seed
        let mutable a = lanes &state
        let mutable b = lanes &state
        let mutable c = lanes &state
        let mutable d = lanes &state
        let limit = Vector256.Create(uint32 (share * 4294967296.0))
        let kept = Vector256.Create value
        let wide = target.Length / 8 * 8
        let mutable at = 0

        while at < target.Length do
            let drawn = Vector256.Add(rotate (Vector256.Add(a, d)) 7, a)
            let shifted = Vector256.ShiftLeft(b, 9)
            c <- Vector256.Xor(c, a)
            d <- Vector256.Xor(d, b)
            b <- Vector256.Xor(b, c)
            a <- Vector256.Xor(a, d)
            c <- Vector256.Xor(c, shifted)
            d <- rotate d 11

            let entries =
                Vector256.BitwiseAnd(Vector256.GreaterThanOrEqual(drawn, limit).AsSingle(), kept)

            if at < wide then
                entries.CopyTo(target.Slice at)
            else
                for i in 0 .. target.Length - at - 1 do
                    target[at + i] <- entries.GetElement i

            at <- at + 8

    /// Zeros a share of the entries and scales the others by 1/(1 − share), as torch.nn.functional.dropout does.
    let apply (share: float) (x: Tensor) : Tensor =
        // a span ends at 2 GiB
        if x.device_type <> DeviceType.CPU || x.numel () > 500_000_000L || x.numel () = 0L then
            torch.nn.functional.dropout (x, share, true)
        else
            Scope.tensor (fun () ->
                let seed =
                    torch.randint (Int64.MinValue, Int64.MaxValue, [| 1L |], dtype = torch.ScalarType.Int64)

                let mask = torch.empty (x.shape, dtype = torch.ScalarType.Float32)
                let scale = 1.0 / (1.0 - share)
                let narrow = x.dtype = torch.ScalarType.Float32

                fill
                    (seed.item<int64> ())
                    share
                    (if narrow then float32 scale else 1f)
                    (MemoryMarshal.Cast<byte, float32> mask.bytes)

                if narrow then
                    x * mask
                else
                    // scaled in the entries' own type
                    x * (mask.to_type x.dtype * scale))
