namespace Sama.Functional

open System
open TorchSharp
open Sama

/// An elementwise rule whose state is split among ranks (ZeRO-1: Rajbhandari et al., ZeRO: Memory Optimizations Toward
/// Training Trillion Parameter Models, 2020): a rank has the state of a range of coordinates and steps them; what comes of
/// it is gathered. Gradient, θ and u are whole on every rank, and every rank calls it with the same.
module internal ShardedRule =

    /// Where the ranges of so many coordinates begin, and the last one's end.
    let bounds (size: int) (length: int64) : int64[] =
        [| for r in 0..size -> length * int64 r / int64 size |]

    /// A rank's range of a flat vector, a view.
    let part (rank: int) (size: int) (vector: Tensor) : Tensor =
        let bounds = bounds size (vector.numel ())
        vector.narrow (0L, bounds[rank], bounds[rank + 1] - bounds[rank])

    /// The rule, elementwise, on this rank's range.
    let ofElementwise (shards: Shards) (rule: BoundRule) : BoundRule =
        let mine (x: Tensor) = part shards.Rank shards.Size x

        let gather (whole: Tensor) =
            shards.Gather whole (bounds shards.Size (whole.numel ()))

        /// What the range becomes, gathered.
        let gathered (like: Tensor) (own: Tensor) : Tensor =
            let whole = torch.empty_like like
            (mine whole).copy_ own |> ignore
            gather whole
            whole

        let requirePlain (given: Tensor list) =
            if given |> List.exists _.requires_grad then
                invalidOp
                    "the step of a rule whose state is split among ranks is not differentiated; take ReductionOptions.ShardStates = false"

        let product own (state: RuleState) (g: Tensor) (theta: Tensor) (v: Tensor) =
            gathered v (own state (mine g) (mine theta) (mine v))

        let jacobian (own: Jacobian) : Jacobian =
            { Pull = product own.Pull
              Push = product own.Push }

        /// In place, on views of the range, which die with the call.
        let within (out: Tensor) (body: Tensor -> 'result) : 'result =
            let result = Scope.run (fun _ -> body (mine out))
            gather out
            result

        { rule with
            Start = fun theta -> rule.Start(mine theta)
            Take =
                fun state g theta ->
                    requirePlain [ g; theta ]
                    let u, next = rule.Take state (mine g) (mine theta)
                    gathered g u, next
            ByGradient = rule.ByGradient |> Result.map jacobian
            ByTheta = jacobian rule.ByTheta
            Sharded = None
            Parts = false
            InPlace =
                { Sound =
                    fun state g theta ->
                        let sound =
                            Scope.run (fun _ -> Number.read (rule.InPlace.Sound state (mine g) (mine theta)) <> 0.0)

                        torch.tensor (shards.All sound)
                  Preview =
                    fun state g theta out ->
                        within out (fun own -> rule.InPlace.Preview state (mine g) (mine theta) own)
                  Advance =
                    fun state g theta out ->
                        within out (fun own -> rule.InPlace.Advance state (mine g) (mine theta) own)
                  AdaptInto =
                    fun state g theta v -> within v (fun own -> rule.InPlace.AdaptInto state (mine g) (mine theta) own) } }

    /// Two steps of a small vector as a whole and in two parts.
    let private stepped (rule: BoundRule) (theta: Tensor) : Tensor list =
        let mutable state, theta = rule.Start theta, theta

        [ for i in 1..2 do
              let g = theta * (0.5 * float i) + 0.25
              let u, next = rule.Take state g theta
              yield! u :: [ for t in next.All -> t ]
              state <- next
              theta <- theta - u ]

    /// Why a rule that is said to be elementwise does not step a range as it does the whole.
    let requireAlike (rule: BoundRule) : Result<unit, string> =
        let length, cut = 48L, 20L

        let differs (whole: Tensor) (first: Tensor) (second: Tensor) =
            if whole.dim () = 0L then
                not (whole.allclose first)
            else
                whole.shape <> [| length |]
                || not (whole.allclose (torch.cat [| first; second |], 1e-9, 1e-12))

        try
            Scope.run (fun _ ->
                use _ = torch.no_grad ()
                let theta = torch.linspace (-1.0, 1.0, length, dtype = torch.float64)
                let whole = stepped rule theta
                let first = stepped rule (theta.narrow (0L, 0L, cut))
                let second = stepped rule (theta.narrow (0L, cut, length - cut))

                if List.zip3 whole first second |> List.exists (fun (w, a, b) -> differs w a b) then
                    Error "a range of coordinates steps otherwise than as a part of the whole"
                else
                    Ok())
        with e ->
            Error $"it cannot step a range of coordinates alone ({(e.Message.Split '\n')[0]})"
