namespace Sama.Functional

open System
open System.Collections
open System.Collections.Concurrent
open System.Collections.Generic
open System.Reflection
open System.Runtime.CompilerServices
open TorchSharp
open Sama

/// Batches of any type, held: a batch has to last until the step that it belongs to is done with, but who gave it may
/// dispose its tensors earlier (a DataLoader does when the next one is asked for).
module internal Batch =

    let private fields (t: Type) =
        [| let mutable at = t

           while not (isNull at) && at <> typeof<obj> do
               yield!
                   at.GetFields(
                       BindingFlags.Instance
                       ||| BindingFlags.Public
                       ||| BindingFlags.NonPublic
                       ||| BindingFlags.DeclaredOnly
                   )

               at <- at.BaseType |]

    let private ofSystem (t: Type) =
        not (isNull t.Namespace) && t.Namespace.StartsWith "System"

    let private opaque (t: Type) =
        t.IsPrimitive
        || t.IsEnum
        || t.IsPointer
        || t = typeof<string>
        || t = typeof<decimal>
        || typeof<Delegate>.IsAssignableFrom t
        || typeof<torch.nn.Module>.IsAssignableFrom t
        || typeof<Type>.IsAssignableFrom t
        || (ofSystem t
            && not (typeof<ITuple>.IsAssignableFrom t)
            && not (typeof<IEnumerable>.IsAssignableFrom t))

    let private known = ConcurrentDictionary<Type, bool>()

    /// Whether a value of a type may have tensors in it.
    let rec private mayHold (t: Type) : bool =
        match known.TryGetValue t with
        | true, answer -> answer
        | _ when typeof<Tensor>.IsAssignableFrom t -> true
        | _ when opaque t -> false
        | _ when t = typeof<obj> || t.IsInterface || t.IsAbstract -> true
        | _ when t.IsArray -> mayHold (t.GetElementType())
        | _ when t.IsGenericType && ofSystem t -> t.GetGenericArguments() |> Array.exists mayHold
        | _ ->
            // a type that holds itself is decided by its other fields
            known[t] <- false
            let answer = fields t |> Array.exists (fun field -> mayHold field.FieldType)
            known[t] <- answer
            answer

    let private shallow =
        typeof<obj>.GetMethod("MemberwiseClone", BindingFlags.Instance ||| BindingFlags.NonPublic)

    // a batch is small; what is larger is somebody's data set
    let private limit = 10_000

    let private requireLive (tensor: Tensor) =
        if tensor.IsInvalid then
            invalidOp
                "the batch has a tensor that is disposed: what a delegate makes is freed at the end of the step, so a tensor that it keeps is made before the run or taken out by DetachFromDisposeScope()"

    let private hasDefault (t: Type) = not (isNull (t.GetConstructor [||]))

    /// Copies of batches, with handles of its own on their tensors.
    type private Copier() =
        let own = List<Tensor>()
        let copies = Dictionary<obj, obj>(ReferenceEqualityComparer.Instance)

        member _.Own = own

        /// The value itself where it holds no tensor.
        member copier.Copy(value: obj) : obj =
            if isNull value || not (mayHold (value.GetType())) || copies.Count > limit then
                value
            else
                match copies.TryGetValue value with
                | true, copied -> copied
                | _ ->
                    let copied = copier.Fresh value

                    if not (value.GetType().IsValueType) then
                        copies[value] <- copied

                    copied

        member private copier.Fresh(value: obj) : obj =
            match value with
            | :? Tensor as tensor ->
                requireLive tensor
                let held = Scope.detach (tensor.alias ())
                own.Add held
                held
            | :? Array as items when items.Rank = 1 -> copier.Items items
            | :? IDictionary as items when hasDefault (value.GetType()) ->
                let result = Activator.CreateInstance(value.GetType()) :?> IDictionary
                let each = items.GetEnumerator()

                while each.MoveNext() do
                    result.Add(each.Key, copier.Copy each.Value)

                result
            | :? IList as items when not (items.IsReadOnly || items.IsFixedSize) && hasDefault (value.GetType()) ->
                let result = Activator.CreateInstance(value.GetType()) :?> IList

                for item in items do
                    result.Add(copier.Copy item) |> ignore

                result
            | _ -> copier.Memberwise value

        member private copier.Items(items: Array) : obj =
            let before = Array.init items.Length items.GetValue
            let after = Array.map copier.Copy before

            if Array.forall2 (fun a b -> obj.ReferenceEquals(a, b)) before after then
                items
            else
                let result = Array.CreateInstance(items.GetType().GetElementType(), items.Length)
                after |> Array.iteri (fun i item -> result.SetValue(item, i))
                result

        member private copier.Memberwise(value: obj) : obj =
            let changed =
                [ for field in fields (value.GetType()) do
                      if mayHold field.FieldType then
                          let before = field.GetValue value
                          let after = copier.Copy before

                          if not (obj.ReferenceEquals(before, after)) then
                              field, after ]

            if changed.IsEmpty then
                value
            else
                let result = shallow.Invoke(value, null)

                for field, after in changed do
                    field.SetValue(result, after)

                result

    /// The batch with handles of its own in place of its tensors, and these handles, which the caller disposes. What holds
    /// no tensor is the same object. InvalidOperationException for a tensor that is disposed.
    let hold (batch: 'batch) : 'batch * Tensor list =
        let copier = Copier()

        try
            unbox<'batch> (copier.Copy(box batch)), List.ofSeq copier.Own
        with _ ->
            for tensor in copier.Own do
                tensor.Dispose()

            reraise ()

    /// The tensors of a batch that are not on the device, by their place, of what can be looked into: tensors, tuples,
    /// sequences.
    let rec misplaced (device: torch.Device) (path: string) (batch: obj) : string list =
        match batch with
        | :? Tensor as tensor when string tensor.device = string device -> []
        | :? Tensor as tensor ->
            let shape = String.Join("x", tensor.shape)
            [ $"{path} ([{shape}]) on {tensor.device}" ]
        | :? ITuple as parts ->
            List.concat [ for i in 0 .. parts.Length - 1 -> misplaced device $"{path}, item {i + 1}" parts[i] ]
        | :? seq<Tensor> as parts ->
            parts
            |> Seq.mapi (fun i part -> misplaced device $"{path}, item {i + 1}" part)
            |> List.concat
        | _ -> []
