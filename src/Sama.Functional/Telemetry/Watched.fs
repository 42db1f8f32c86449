namespace Sama.Functional

open Sama

/// What a method asks of a level, timed and counted.
module internal Watched =

    /// Counts so many passes, and those by which `passes` has grown.
    let private counted (clock: PhaseClock) (passes: int ref) (own: 'result -> int) (body: unit -> 'result) : 'result =
        let before = passes.Value
        let result = clock.Within(RunPhase.Products, body)

        for _ in 1 .. own result + passes.Value - before do
            clock.CountPass()

        result

    let private linearization (clock: PhaseClock) passes (at: ILinearization) : ILinearization =
        let product body =
            clock.CountProduct()
            counted clock passes (fun _ -> 0) body

        { new ILinearization with
            member _.ThetaVjp w = product (fun () -> at.ThetaVjp w)
            member _.LambdaVjp w = product (fun () -> at.LambdaVjp w)

            member _.Vjps w =
                clock.CountProduct()
                product (fun () -> at.Vjps w)

            member _.LambdaJvp d = product (fun () -> at.LambdaJvp d) }

    /// (∂u/∂g)ᵀ and its like.
    let rule (clock: PhaseClock) (at: IRuleJacobians) : IRuleJacobians =
        let timed body = clock.Within(RunPhase.Rule, body)

        { new IRuleJacobians with
            member _.Elementwise = at.Elementwise
            member _.Adapt v = timed (fun () -> at.Adapt v)
            member _.AdaptInPlace v = timed (fun () -> at.AdaptInPlace v)
            member _.AdaptForward w = timed (fun () -> at.AdaptForward w)
            member _.Decay v = timed (fun () -> at.Decay v)
            member _.DecayForward w = timed (fun () -> at.DecayForward w)
            member _.LearnsOptions = at.LearnsOptions
            member _.OptionsVjp v = timed (fun () -> at.OptionsVjp v)
            member _.OptionsJvp d = timed (fun () -> at.OptionsJvp d) }

    /// Products with second derivatives.
    let products (clock: PhaseClock) (passes: int ref) (at: IBaseProducts) : IBaseProducts =
        { new IBaseProducts with
            member _.Linearize(theta, followStops) =
                counted clock passes (fun _ -> 1) (fun () -> at.Linearize(theta, followStops))
                |> linearization clock passes }

    /// The reverse pass through a window.
    let trajectory (clock: PhaseClock) (passes: int ref) (at: ITrajectory) : ITrajectory =
        { new ITrajectory with
            member _.Unrolled(options, v) =
                let struct (vector, steps) =
                    counted clock passes (fun struct (_, steps) -> steps) (fun () -> at.Unrolled(options, v))

                for _ in 1..steps do
                    // (∂g/∂θ)ᵀ w and (∂g/∂λ)ᵀ w of each step
                    clock.CountProduct()
                    clock.CountProduct()

                struct (vector, steps) }
