/// Random problems, drawn by a seed so that a failing property prints it.
module Sama.DataOptimization.Tests.Draws

open System
open Expecto

/// Standard normal (Box and Muller).
let normal (random: Random) =
    sqrt (-2.0 * log (1.0 - random.NextDouble()))
    * cos (2.0 * Math.PI * random.NextDouble())

/// An index with the probabilities given.
let category (random: Random) (probabilities: float[]) =
    let mutable left = random.NextDouble()
    let mutable index = 0

    while index < probabilities.Length - 1 && left >= probabilities[index] do
        left <- left - probabilities[index]
        index <- index + 1

    index

/// Rows of probabilities from normal logits.
let probabilities (random: Random) rows classes spread =
    Array.init rows (fun _ ->
        let weights = Array.init classes (fun _ -> exp (spread * normal random))
        let sum = Array.sum weights
        weights |> Array.map (fun w -> w / sum))

let labels (random: Random) rows classes =
    Array.init rows (fun _ -> random.Next classes)

let close (actual: float) (expected: float) what =
    Expect.floatClose { absolute = 1e-10; relative = 1e-10 } actual expected what

let closeAll (actual: float[]) (expected: float[]) what =
    Expect.equal actual.Length expected.Length what
    Array.iteri2 (fun i a e -> close a e $"{what} [{i}]") actual expected

/// That a call is refused by an exception whose message has all the words.
let refused<'E when 'E :> exn> (words: string list) (call: unit -> unit) =
    Expect.throwsC call (fun e ->
        Expect.isTrue (e :? 'E) $"{e.GetType().Name}: {e.Message}"

        for word in words do
            Expect.stringContains e.Message word "message")

let property name (test: int -> unit) =
    testPropertyWithConfig
        { FsCheckConfig.defaultConfig with
            maxTest = 60 }
        name
        test
