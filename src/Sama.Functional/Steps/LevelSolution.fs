namespace Sama.Functional

open Sama

/// What a method sees, put together from its parts.
[<Sealed>]
type internal LevelSolution
    (
        rule: IRuleJacobians,
        gradients: IBaseGradients,
        products: IBaseProducts,
        trajectory: ITrajectory,
        memory: IMethodMemory
    ) =

    interface IRuleJacobians with
        member _.Elementwise = rule.Elementwise
        member _.Adapt v = rule.Adapt v
        member _.AdaptInPlace v = rule.AdaptInPlace v
        member _.AdaptForward w = rule.AdaptForward w
        member _.Decay v = rule.Decay v
        member _.DecayForward w = rule.DecayForward w
        member _.LearnsOptions = rule.LearnsOptions
        member _.OptionsVjp v = rule.OptionsVjp v
        member _.OptionsJvp d = rule.OptionsJvp d

    interface IBaseGradients with
        member _.Theta = gradients.Theta
        member _.ThetaBefore = gradients.ThetaBefore
        member _.Lambda = gradients.Lambda
        member _.Gradient = gradients.Gradient
        member _.SquaredGradient() = gradients.SquaredGradient()
        member _.Perturbed(centre, scale, v) = gradients.Perturbed(centre, scale, v)
        member _.ThetaGradient theta = gradients.ThetaGradient theta
        member _.LambdaGradient theta = gradients.LambdaGradient theta

        member _.LambdaGradient(theta, microBatches) =
            gradients.LambdaGradient(theta, microBatches)

    interface IBaseProducts with
        member _.Linearize(theta, followStops) = products.Linearize(theta, followStops)

    interface IMethodMemory with
        member _.Kept = memory.Kept

    interface ITrajectory with
        member _.Unrolled(options, v) = trajectory.Unrolled(options, v)

    interface IBaseSolution
