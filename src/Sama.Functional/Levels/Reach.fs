namespace Sama.Functional

open System
open System.Collections
open System.Collections.Concurrent
open System.Collections.Generic
open System.Reflection
open System.Threading.Tasks
open TorchSharp

/// What objects refer to, as far as it may lead to what is looked for: `leaf` says of a type whether its values are that
/// (Some true), cannot lead there (Some false), or have to be looked into (None).
[<Sealed>]
type internal Reach(leaf: Type -> bool option) =

    static let instance =
        BindingFlags.Instance
        ||| BindingFlags.Public
        ||| BindingFlags.NonPublic
        ||| BindingFlags.DeclaredOnly

    /// Fields of a type and of the types that it is derived from.
    static let allFields (t: Type) : FieldInfo[] =
        [| let mutable at = t

           while not (isNull at) && at <> typeof<obj> do
               yield! at.GetFields instance
               at <- at.BaseType |]

    static let ofSystem (t: Type) =
        not (isNull t.Namespace)
        && (t.Namespace = "System" || t.Namespace.StartsWith "System.")

    /// Types whose values are never looked into.
    static let opaque (t: Type) =
        t.IsPrimitive
        || t.IsEnum
        || t.IsPointer
        || t.IsByRefLike
        || t = typeof<string>
        || typeof<Task>.IsAssignableFrom t
        || t.Assembly = typeof<torch>.Assembly
        || (ofSystem t
            && not t.IsGenericType
            && not (typeof<IEnumerable>.IsAssignableFrom t))

    // a type that holds itself is decided by its other fields
    let rec decide (visiting: HashSet<Type>) (t: Type) : bool =
        match leaf t with
        | Some answer -> answer
        | None when t.IsArray -> decide visiting (t.GetElementType())
        | None when t = typeof<obj> || t.IsInterface -> true
        | None when opaque t -> false
        | None when t.IsAbstract -> true
        | None when ofSystem t && t.IsGenericType -> t.GetGenericArguments() |> Array.exists (decide visiting)
        | None when ofSystem t -> true
        | None when visiting.Add t -> allFields t |> Array.exists (fun field -> decide visiting field.FieldType)
        | None -> false

    let known = ConcurrentDictionary<Type, bool>()
    let leading = ConcurrentDictionary<Type, FieldInfo[]>()

    /// Whether a value of a type may be, or lead to, what is looked for.
    member _.MayHold(t: Type) : bool =
        known.GetOrAdd(t, fun t -> decide (HashSet()) t)

    /// The fields of a type that may lead there.
    member reach.Fields(t: Type) : FieldInfo[] =
        leading.GetOrAdd(t, fun t -> allFields t |> Array.filter (fun field -> reach.MayHold field.FieldType))

    /// The objects that an object refers to, through its structs, that may lead there.
    member reach.References(value: obj) : obj seq =
        let reference isStruct (item: obj) =
            if isNull item || not (reach.MayHold(item.GetType())) then
                Seq.empty
            elif isStruct then
                reach.References item
            else
                Seq.singleton item

        seq {
            match value with
            | :? Array as array ->
                let inner = array.GetType().GetElementType().IsValueType

                for item in array do
                    yield! reference inner item
            | _ ->
                for field in reach.Fields(value.GetType()) do
                    yield! reference field.FieldType.IsValueType (field.GetValue value)
        }

    static member internal AllFields(t: Type) = allFields t
    static member internal OfSystem(t: Type) = ofSystem t
