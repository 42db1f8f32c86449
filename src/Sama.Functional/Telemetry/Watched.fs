namespace Sama.Functional

open Sama

/// What a method asks of a level, timed and counted.
module internal Watched =

    let private linearization (clock: PhaseClock) (at: ILinearization) : ILinearization =
        let product body =
            clock.CountProduct()
            clock.Within(RunPhase.Products, body)

        { new ILinearization with
            member _.ThetaVjp w = product (fun () -> at.ThetaVjp w)
            member _.LambdaVjp w = product (fun () -> at.LambdaVjp w)
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
            member _.DecayForward w = timed (fun () -> at.DecayForward w) }

    /// Products with second derivatives.
    let products (clock: PhaseClock) (at: IBaseProducts) : IBaseProducts =
        { new IBaseProducts with
            member _.Linearize(theta, followStops) =
                clock.CountPass()
                linearization clock (clock.Within(RunPhase.Products, (fun () -> at.Linearize(theta, followStops)))) }

    /// The reverse pass through a window.
    let trajectory (clock: PhaseClock) (at: ITrajectory) : ITrajectory =
        { new ITrajectory with
            member _.Unrolled(options, v) =
                let struct (vector, steps) =
                    clock.Within(RunPhase.Products, (fun () -> at.Unrolled(options, v)))

                for _ in 1..steps do
                    clock.CountPass()
                    // (∂g/∂θ)ᵀ w and (∂g/∂λ)ᵀ w of each step
                    clock.CountProduct()
                    clock.CountProduct()

                struct (vector, steps) }
