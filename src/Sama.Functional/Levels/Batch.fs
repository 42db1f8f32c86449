namespace Sama.Functional

open System
open System.Collections
open System.Collections.Concurrent
open System.Collections.Generic
open System.Reflection
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// Batches of any type, held: a batch has to last until the step that it belongs to is done with, but who gave it may
/// dispose its tensors earlier (a DataLoader does when the next one is asked for).
module internal Batch =

    let private reach =
        Reach(fun t ->
            if t = typeof<Tensor> then Some true
            elif typeof<Delegate>.IsAssignableFrom t then Some false
            else None)

    let private mayHold (t: Type) : bool = reach.MayHold t

    let private tables = ConcurrentDictionary<Type, FieldInfo[]>()

    /// Arrays of numbers in a collection of .NET's own (the buckets of a dictionary): its owner may fill it anew.
    let private ownTables (t: Type) : FieldInfo[] =
        tables.GetOrAdd(
            t,
            fun t ->
                if Reach.OfSystem t then
                    Reach.AllFields t
                    |> Array.filter (fun field ->
                        field.FieldType.IsArray && field.FieldType.GetElementType().IsPrimitive)
                else
                    [||]
        )

    let private shallow =
        typeof<obj>.GetMethod("MemberwiseClone", BindingFlags.Instance ||| BindingFlags.NonPublic)

    let private clone (value: obj) : obj =
        let copied = shallow.Invoke(value, null)
        // what it owns beside its tensors, it shares
        GC.SuppressFinalize copied
        copied

    let private items (array: Array) : (int[] * obj) seq =
        seq {
            let index = Array.init array.Rank array.GetLowerBound

            for item in array do
                Array.copy index, item
                let mutable d = array.Rank - 1
                index[d] <- index[d] + 1

                while d > 0 && index[d] > array.GetUpperBound d do
                    index[d] <- array.GetLowerBound d
                    d <- d - 1
                    index[d] <- index[d] + 1
        }

    // a batch is small; what is larger is somebody's data set
    let private limit = 100_000

    /// The objects from which a tensor can be reached, tensors themselves among them.
    let private reaching (root: obj) : HashSet<obj> =
        let parents = Dictionary<obj, List<obj>>(ReferenceEqualityComparer.Instance)

        let waiting = Queue<obj>()
        let tensors = Queue<obj>()

        let meet (parent: obj) (value: obj) =
            match parents.TryGetValue value with
            | true, known -> known.Add parent
            | _ ->
                parents[value] <- List [ parent ]

                if value :? Tensor then
                    tensors.Enqueue value
                else
                    waiting.Enqueue value

        meet null root

        while waiting.Count > 0 do
            if parents.Count > limit then
                invalidOp
                    $"the batch refers to more than {limit:N0} objects: give the tensors of the batch alone, and keep the data set outside it"

            let value = waiting.Dequeue()

            for child in reach.References value do
                meet value child

        let reached = HashSet<obj>(ReferenceEqualityComparer.Instance)

        while tensors.Count > 0 do
            let value = tensors.Dequeue()

            if reached.Add value then
                for parent in parents[value] do
                    if not (isNull parent) then
                        tensors.Enqueue parent

        reached

    /// A handle of its own on a batch's tensor, a constant; on that device, if one is given.
    let private held (device: torch.Device) (tensor: Tensor) : Tensor =
        if tensor.IsInvalid then
            invalidOp
                "the batch has a tensor that is disposed: what a delegate makes is freed at the end of the step, so a tensor that it keeps is made before the run or taken out by DetachFromDisposeScope()"

        if tensor.requires_grad && not tensor.is_leaf then
            let shape = String.Join("x", tensor.shape)

            invalidOp
                $"the batch has a tensor ([{shape}]) that was computed from parameters that require grad: a batch is a constant, so compute it under no_grad() or detach() it; what depends on the parameters of a level belongs into its loss"

        let isThere =
            isNull device
            || (tensor.device_type = device.``type`` && tensor.device_index = device.index)

        let own =
            if isThere then
                tensor.detach ()
            else
                try
                    tensor.detach().``to`` device
                with :? ExternalException as e ->
                    let shape, reason = String.Join("x", tensor.shape), (e.Message.Split '\n')[0]
                    invalidOp $"the batch's tensor ([{shape}]) on {tensor.device} does not move to {device}: {reason}"

        let own = Scope.detach own

        if tensor.requires_grad then
            own.requires_grad_ true |> ignore

        own

    /// The batch with handles of its own in place of its tensors, on that device (null: where they are), and these handles,
    /// which the caller disposes. What holds no tensor is the same object. InvalidOperationException for a tensor that is
    /// disposed or has a graph.
    let hold (device: torch.Device) (batch: 'batch) : 'batch * Tensor list =
        let own = List<Tensor>()
        let root = box batch

        if isNull root || not (mayHold (root.GetType())) then
            batch, []
        else
            let copies = Dictionary<obj, obj>(ReferenceEqualityComparer.Instance)

            let rec copied isStruct (value: obj) : obj =
                if isNull value || not (mayHold (value.GetType())) then
                    value
                elif isStruct then
                    let copy = clone value
                    fill copy
                    copy
                else
                    match copies.TryGetValue value with
                    | true, copy -> copy
                    | _ -> value

            and fill (copy: obj) : unit =
                match copy with
                | :? Tensor -> ()
                | :? Array as array ->
                    let inner = array.GetType().GetElementType().IsValueType

                    for index, item in List.ofSeq (items array) do
                        array.SetValue(copied inner item, index)
                | _ ->
                    let t = copy.GetType()

                    for field in reach.Fields t do
                        field.SetValue(copy, copied field.FieldType.IsValueType (field.GetValue copy))

                    for field in ownTables t do
                        match field.GetValue copy with
                        | :? Array as table -> field.SetValue(copy, table.Clone())
                        | _ -> ()

            try
                for value in reaching root do
                    copies[value] <-
                        match value with
                        | :? Tensor as tensor ->
                            let handle = held device tensor
                            own.Add handle
                            box handle
                        | :? Array as array -> array.Clone()
                        | _ -> clone value

                for copy in copies.Values do
                    fill copy

                unbox<'batch> (copied false root), List.ofSeq own
            with _ ->
                for tensor in own do
                    tensor.Dispose()

                reraise ()

    /// Rows of a batch: the length of the first axis that most of its tensors have, else the items of a collection; 0 for what
    /// is neither.
    let rows (batch: obj) (tensors: Tensor list) : int64 =
        match
            [ for t in tensors do
                  if t.dim () > 0L then
                      t.shape[0] ]
        with
        | [] ->
            match batch with
            | :? ICollection as items -> int64 items.Count
            | _ -> 0L
        | lengths -> lengths |> List.countBy id |> List.maxBy snd |> fst
