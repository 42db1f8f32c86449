namespace Sama

open System.Collections.Generic

/// The state of a rule: steps taken, named tensors, and the states of the rules it is made of.
[<ReferenceEquality>]
type RuleState =
    {
        /// steps taken
        Count: int64
        /// by name, flat unless a rule says otherwise
        Tensors: IReadOnlyDictionary<string, Tensor>
        /// states of the rules that the rule is made of, in their order
        Parts: IReadOnlyList<RuleState>
        /// names of the parameters that it is for, where it is a group's; empty: all that the rule sees
        Parameters: IReadOnlyList<string>
    }

    /// The tensor of that name.
    member state.Item
        with get (name: string): Tensor = state.Tensors[name]

    /// Every tensor of the state and its parts.
    member state.All: Tensor seq =
        seq {
            yield! state.Tensors.Values

            for part in state.Parts do
                yield! part.All
        }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// States of rules.
module RuleState =

    /// Steps taken, named tensors, states of parts.
    let create (count: int64) (tensors: (string * Tensor) seq) (parts: RuleState seq) : RuleState =
        { Count = count
          Tensors = readOnlyDict tensors
          Parts = Array.ofSeq parts
          Parameters = [||] }

    /// No step taken, no tensors.
    let empty: RuleState = create 0L [] []

    /// The state of a rule without tensors after one more step.
    let internal counted (state: RuleState) : RuleState = { state with Count = state.Count + 1L }

    /// The same state with every tensor changed.
    let rec map (f: Tensor -> Tensor) (state: RuleState) : RuleState =
        { create state.Count [ for t in state.Tensors -> t.Key, f t.Value ] [ for part in state.Parts -> map f part ] with
            Parameters = state.Parameters }

    /// Every tensor of a state and its parts.
    let tensors (state: RuleState) : Tensor list = List.ofSeq state.All

    let internal dispose (state: RuleState) =
        for tensor in tensors state do
            tensor.Dispose()

    /// Names, shapes and types of a state's tensors, one line a tensor, parts by their number: what two states of the
    /// same rule on the same layout have in common.
    let rec internal signature (path: string) (state: RuleState) : string list =
        [ for t in state.Tensors |> Seq.sortBy _.Key do
              $"{path}{t.Key}: {Number.told t.Value}"
          for i, part in Seq.indexed state.Parts do
              let own = $"{path}{i}/"
              $"{own}: {part.Tensors.Count} tensors"
              yield! signature own part ]

    /// The first part that is for other parameters in one state than in the other, where both know: theirs and ours.
    let rec internal misplaced (ours: RuleState) (theirs: RuleState) : (string * string) option =
        let names (state: RuleState) =
            String.Join(", ", [ for name in state.Parameters -> $"'{name}'" ])

        let a, b = names ours, names theirs

        if a <> "" && b <> "" && a <> b then
            Some(a, b)
        else
            Seq.zip ours.Parts theirs.Parts
            |> Seq.tryPick (fun (ours, theirs) -> misplaced ours theirs)

    /// The tensors of `next`, each beside its namesake. InvalidOperationException for a rule that changes the names,
    /// shapes or types of its state from one step to the next.
    let rec internal pairs (rule: string) (old: RuleState) (next: RuleState) : (Tensor * Tensor) list =
        let names (state: RuleState) =
            state.Tensors.Keys |> Seq.sort |> List.ofSeq

        if names old <> names next || old.Parts.Count <> next.Parts.Count then
            let list state = String.Join(", ", names state)

            invalidOp
                $"rule '{rule}' went from a state of the tensors [{list old}] and {old.Parts.Count} parts to one of [{list next}] and {next.Parts.Count}; a rule's state keeps its names"

        [ for t in old.Tensors do
              let fresh = next.Tensors[t.Key]

              if fresh.dtype <> t.Value.dtype || fresh.shape <> t.Value.shape then
                  invalidOp
                      $"rule '{rule}' went from a state whose '{t.Key}' is {Number.told t.Value} to one of {Number.told fresh}; a rule's state keeps its shapes and types"

              t.Value, fresh
          for a, b in Seq.zip old.Parts next.Parts do
              yield! pairs rule a b ]
