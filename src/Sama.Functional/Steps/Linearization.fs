namespace Sama.Functional

open TorchSharp
open Sama

/// A level's loss and its gradient with their graphs. The level's own vector and those of `upper` are in the graph, all
/// others are constants.
module internal Linearization =

    /// What is differentiated: a level, the levels above it, and the vectors of all.
    [<NoComparison; NoEquality>]
    type Subject =
        {
            Problem: BilevelProblem
            Index: int
            Upper: int list
            Vectors: Tensor[]
            Precision: torch.ScalarType option
            /// by how much products differ from those with half the step, relative, the most; None where nobody asks
            Disagreement: float ref option
        }

    /// The loss on vectors in a graph: the mean over micro-batches.
    let loss (s: Subject) (micros: Micro list) mode (theta: Tensor) (lambda: Tensor) : Tensor =
        let upper = List.zip s.Upper (List.ofArray (Passes.parted s.Problem s.Upper lambda))

        let narrow (x: Tensor) =
            match s.Precision with
            | Some narrow when narrow <> x.dtype -> x.to_type narrow
            | _ -> x

        let parameters =
            s.Problem.Levels
            |> Array.mapi (fun i level ->
                if i = s.Index then
                    Params.traced level.Layout (narrow theta)
                else
                    match upper |> List.tryFind (fun (j, _) -> j = i) with
                    | Some(_, own) -> Params.traced level.Layout (narrow own)
                    | None -> Params.frozen level.Layout (narrow s.Vectors[i]))

        let share = 1.0 / float micros.Length

        micros
        |> List.map (fun micro -> (micro.Loss mode parameters).to_type theta.dtype * share)
        |> List.reduce (+)

    /// Notes by how much two forms of a product differ, of the length of the first.
    let compare (disagreement: float ref) (product: Tensor) (other: Tensor) : unit =
        let apart =
            Scope.run (fun _ -> Method.relative (Method.size (other - product)) (Method.size product))

        disagreement.Value <- max disagreement.Value apart

    /// λ: the vectors of the upper levels, one behind the other.
    let lambdaOf (s: Subject) : Tensor =
        Passes.joined [| for j in s.Upper -> s.Vectors[j] |]

    /// (∂g/∂input)ᵀ w of every input, through the stop-features too where they are followed.
    let private pull mode (g: Tensor) (inputs: Tensor[]) (w: Tensor) : Tensor[] =
        Scope.run (fun keep ->
            match mode.Stops with
            | Follow features when features.Count > 0 ->
                let leaves, through =
                    List.unzip [ for struct (leaf, feature) in features -> leaf, feature ]

                let pulled =
                    Autodiff.pullAll Autodiff.Kept [ g, w ] (Array.append inputs (Array.ofList leaves))

                let seeds = List.ofArray pulled[inputs.Length ..]
                let behind = Autodiff.pullAll Autodiff.Kept (List.zip through seeds) inputs
                Array.map2 (fun (a: Tensor) (b: Tensor) -> keep (a + b)) pulled[.. inputs.Length - 1] behind
            | _ -> Autodiff.pullAll Autodiff.Kept [ g, w ] inputs |> Array.map keep)

    /// g at (θ, λ), and products with its derivatives.
    let at (s: Subject) (micros: Micro list) mode (theta: Tensor) : Tensor * ILinearization =
        let x, l = Autodiff.leaf theta, Autodiff.leaf (lambdaOf s)
        let g = Autodiff.gradientInGraph (loss s micros mode x l) x

        g.detach (),
        { new ILinearization with
            member _.ThetaVjp w = (pull mode g [| x |] w)[0]
            member _.LambdaVjp w = (pull mode g [| l |] w)[0]

            member _.Vjps w =
                let both = pull mode g [| x; l |] w
                struct (both[0], both[1])

            // the derivative of the vjp, which is linear in its seed
            member _.LambdaJvp d =
                Scope.tensor (fun () ->
                    let seed = Autodiff.leaf (torch.zeros_like g)
                    let pulled = Autodiff.pull Autodiff.Extended g seed l
                    Autodiff.pull Autodiff.Kept pulled d seed) }
