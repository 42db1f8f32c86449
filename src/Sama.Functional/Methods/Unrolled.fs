namespace Sama.Functional

open TorchSharp
open Sama

/// Reverse mode through the base steps themselves (`Unrolling`): exact for the trajectory, and for θ* in the limit.
module internal Unrolled =

    let method name (o: UnrolledOptions) : HypergradientMethod =
        Method.atLeast 0 "Steps" o.Steps
        Method.atLeast 0 "Last" o.Last

        if o.Steps > 0 && o.Last > o.Steps then
            invalidArg "Last" $"Last ({o.Last}) is at most Steps ({o.Steps})"

        { Name = name
          Needs = [ Products ProductForm.Default; LearnedOptions; History(o.Steps, o.Last) ]
          Motion = Unknown $"{name} goes through several steps"
          Choose = None
          BestResponse =
            fun at v ->
                let struct (vector, steps) = at.Unrolled(o, v)

                // each step is taken again, and its gradient differentiated by θ and by λ
                { Vector = vector
                  Move = None
                  Kept = None
                  Report =
                    lazy
                        { Report.empty name with
                            Passes = steps
                            Products = 2 * steps } } }
