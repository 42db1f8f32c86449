namespace Sama

open System

/// What fixes the batch and the random masks of one pass: `Stream` is the level's index, `Step` counts its steps.
[<Struct; NoComparison>]
type Draw =
    {
        /// the run's seed
        Seed: int64
        /// the level's step, from 0
        Step: int64
        /// the level's index, from the lowest up
        Stream: int
        /// 0 on one process
        Rank: int
    }

    /// A well-mixed hash of all four (SplitMix64), for the generator that picks a batch.
    member draw.RandomSeed: int64 =
        let mix (state: uint64) (value: uint64) =
            let z = state + value * 0x9E3779B97F4A7C15UL + 0x9E3779B97F4A7C15UL
            let z = (z ^^^ (z >>> 30)) * 0xBF58476D1CE4E5B9UL
            let z = (z ^^^ (z >>> 27)) * 0x94D049BB133111EBUL
            z ^^^ (z >>> 31)

        let fields =
            [ uint64 draw.Seed; uint64 draw.Step; uint64 draw.Stream; uint64 draw.Rank ]

        int64 (List.fold mix 0UL fields >>> 1)

namespace Sama.Functional

open TorchSharp
open Sama

/// Random masks from draws.
module Draw =

    let private generator = obj ()
    let private cuda = lazy torch.cuda.is_available ()

    /// Runs `body` and puts the CPU's generator back as it was. Bodies and passes may run beside each other.
    let apart (body: unit -> 'result) : 'result =
        use before = lock generator (fun () -> torch.get_rng_state ())

        try
            body ()
        finally
            lock generator (fun () -> torch.set_rng_state before)

    /// Runs `pass` under the draw's masks and leaves the CPU's generator as it was; CUDA's generators are seeded too, and
    /// left where the pass took them. Passes are serialised on the generators.
    let masks (draw: Draw) (pass: unit -> 'result) : 'result =
        lock generator (fun () ->
            use before = torch.get_rng_state ()

            try
                torch.random.manual_seed draw.RandomSeed |> ignore

                // torch.random.manual_seed of TorchSharp reaches the CPU's generator alone
                if cuda.Value then
                    torch.cuda.manual_seed_all draw.RandomSeed |> ignore

                pass ()
            finally
                torch.set_rng_state before)
