namespace Sama.Functional

open TorchSharp
open Sama

/// States of rules among the ranks: whole in every state of a run, split while it runs.
module internal Sharding =

    let isUsed (problem: BilevelProblem) : bool = (RankRules.shards problem).IsSome

    // what a rule counts by lies in one number, which every rank has
    let private isSplit (tensor: Tensor) = tensor.dim () = 1L

    let private mapRules (f: RuleState -> RuleState) (state: RunState) : RunState =
        { state with
            Levels = [| for level in state.Levels -> { level with Rule = f level.Rule } |] }

    /// The same state with this rank's part of every rule's; views, of the caller's scope.
    let part (problem: BilevelProblem) (state: RunState) : RunState =
        match RankRules.shards problem with
        | None -> state
        | Some shards ->
            let part (whole: Tensor) =
                if isSplit whole then
                    ShardedRule.part shards.Rank shards.Size whole
                else
                    whole

            mapRules (RuleState.map part) state

    /// The same of a state that is the caller's no longer: what other ranks have is freed.
    let keepPart (problem: BilevelProblem) (state: RunState) : RunState =
        if not (isUsed problem) then
            state
        else
            Scope.run (fun _ ->
                let kept = part problem state |> mapRules (RuleState.map Scope.copy)

                for level in state.Levels do
                    RuleState.dispose level.Rule

                kept)

    /// The whole of a state of which each rank gives its part, which it has no longer then.
    let whole (problem: BilevelProblem) (state: RunState) : RunState =
        match RankRules.shards problem with
        | None -> state
        | Some shards ->
            let together (own: Tensor) : Tensor =
                if not (isSplit own) then
                    Scope.copy own
                else
                    let length =
                        problem.Communicator.Gather [| float (own.numel ()) |] |> Array.sumBy Array.head

                    let whole = torch.zeros (int64 length, dtype = own.dtype, device = own.device)
                    let bounds = ShardedRule.bounds shards.Size (whole.numel ())
                    (ShardedRule.part shards.Rank shards.Size whole).copy_ own |> ignore
                    shards.Gather whole bounds
                    Scope.detach whole

            Scope.run (fun _ ->
                let found = mapRules (RuleState.map together) state

                for level in state.Levels do
                    RuleState.dispose level.Rule

                found)
