namespace Sama.Functional

open System.Collections.Generic

/// Steps that are reversed: one place, which moves, and places that are kept. A place lies before the step of its number.
type internal IReversible =
    /// The place moves over that step, where it stands.
    abstract Advance: step: int -> unit
    /// The place is kept, `depth` others below it.
    abstract Keep: step: int * depth: int -> unit
    /// The place is one that was kept.
    abstract Restore: step: int -> unit
    /// What was kept there is not needed any more.
    abstract Drop: step: int -> unit
    /// That step is reversed, where the place stands; the place is lost.
    abstract Reverse: step: int -> unit

/// Reverse order from few places, with the fewest steps taken: binomial checkpointing. A. Griewank and A. Walther,
/// "Algorithm 799: revolve", ACM Transactions on Mathematical Software 26 (2000).
module internal Revolve =

    /// β(c, r) = C(c + r, c): the steps that are reversed from c places, each taken r times at most.
    let reach (places: int) (times: int) : float =
        let mutable product = 1.0

        for i in 1..times do
            product <- product * float (places + i) / float i

        round product

    /// How often a step is taken at most, of so many.
    let times (places: int) (steps: int) : int =
        Seq.initInfinite id |> Seq.find (fun r -> reach places r >= float steps)

    /// Steps taken before each is reversed: r l − β(c + 1, r − 1).
    let taken (places: int) (steps: int) : int64 =
        if steps = 1 then
            0L
        else
            let r = times places steps
            int64 (float r * float steps - reach (places + 1) (r - 1))

    /// Where the second of so many places is kept, in steps from the first.
    let split (places: int) (steps: int) : int =
        let r = times places steps
        int (min (reach places (r - 1)) (float steps - reach (places - 1) (r - 1)))

    /// From the last place that is kept below `left` to the step before it; places are kept on the way.
    let private walk (places: int) (kept: Stack<int>) (left: int) (at: IReversible) =
        let mutable step = kept.Peek()

        while step < left - 1 do
            let free = places - kept.Count

            let next =
                if free > 0 then
                    step + split (free + 1) (left - step)
                else
                    left - 1

            for i in step .. next - 1 do
                at.Advance i

            step <- next

            if step < left - 1 then
                at.Keep(step, kept.Count)
                kept.Push step

    /// Reverses the steps below `left`, the last one first, from at most so many places; `kept` are those that there are, the
    /// lowest first, at least that before step 0. The place is anywhere.
    let run (places: int) (kept: int list) (left: int) (at: IReversible) : unit =
        let kept = Stack<int> kept
        let mutable left = left

        while left > 0 do
            at.Restore(kept.Peek())
            walk places kept left at
            left <- left - 1
            at.Reverse left

            while kept.Count > 0 && kept.Peek() >= left do
                at.Drop(kept.Pop())
