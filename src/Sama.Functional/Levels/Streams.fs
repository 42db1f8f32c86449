namespace Sama

/// Batches in the order in which they are asked for, which no draw gives again.
type internal IStream = interface end

namespace Sama.Functional

open System
open System.Collections.Generic
open System.Reflection
open Sama

/// Which sources of batches are streams.
module internal Streams =

    // a source is a few closures deep; what is larger is its data
    let private limit = 1_000

    let private fields (t: Type) =
        t.GetFields(BindingFlags.Instance ||| BindingFlags.Public ||| BindingFlags.NonPublic)

    /// Closures and delegates that .NET, F# and this library put around a source, and the compilers' own.
    let private wraps (t: Type) =
        let assembly = t.Assembly.GetName().Name

        not (assembly.StartsWith "System." || assembly.StartsWith "TorchSharp")
        && not t.IsPrimitive
        && not t.IsArray

    /// True if the source asks a stream, as far as closures and delegates lead to it.
    let isStream (source: obj) : bool =
        let seen = HashSet<obj>(ReferenceEqualityComparer.Instance)

        let rec search (value: obj) =
            match value with
            | null -> false
            | :? IStream -> true
            | _ when seen.Count > limit || not (seen.Add value) -> false
            | :? Delegate as d -> d.GetInvocationList() |> Array.exists (fun one -> search one.Target)
            | _ when wraps (value.GetType()) ->
                fields (value.GetType())
                |> Array.exists (fun field -> not field.FieldType.IsValueType && search (field.GetValue value))
            | _ -> false

        search source
