namespace Sama.Functional

open TorchSharp
open Sama

/// Derivatives of functions that are known by their values alone.
module internal Differences =

    /// (∂f/∂x) d = [8(f(δ) − f(−δ)) − (f(2δ) − f(−2δ))]/12δ, f(δ) = f(x + δd): its error falls with δ⁴. δ = r(1 + ‖x‖)/‖d‖,
    /// r = 1e-3 in float64 and 3e-2 in float32. A fresh handle.
    let along (disagreement: float ref option) (x: Tensor) (d: Tensor) (f: Tensor -> Tensor) : Tensor =
        Scope.tensor (fun () ->
            let size = Method.size d

            if size = 0.0 then
                f x * 0.0
            else
                let reach = if d.dtype = torch.float64 then 1e-3 else 3e-2
                let delta = reach * (1.0 + Method.size x) / size

                let at (times: float) =
                    Scope.tensor (fun () -> f (x + d * (times * delta)))

                let near, far = at 1.0 - at -1.0, at 2.0 - at -2.0

                disagreement
                |> Option.iter (fun known -> Linearization.compare known (far * 0.5) near)

                (near * 8.0 - far) / Number.scalar (12.0 * delta))

    /// Products with the derivatives of a gradient that is known by its values: its parts by θ and by λ as functions of θ,
    /// both of them joined, and that by θ as a function of λ. Calls are counted; how far the near and the far pair of points
    /// are apart is noted where it is asked for.
    let linearization
        (passes: int ref)
        disagreement
        (theta: Tensor)
        (lambda: Tensor)
        own
        ofLambda
        both
        ownAt
        : ILinearization =
        let along x d f =
            passes.Value <- passes.Value + 4
            along disagreement x d f

        { new ILinearization with
            member _.ThetaVjp w = along theta w own
            member _.LambdaVjp w = along theta w ofLambda

            member _.Vjps w =
                Scope.run (fun keep ->
                    let parts = (along theta w both).split ([| theta.numel (); lambda.numel () |])
                    struct (keep (parts[0].clone ()), keep (parts[1].clone ())))

            member _.LambdaJvp d = along lambda d ownAt }
