namespace Sama

/// Batches in the order in which they are asked for, which no draw gives again.
type internal IStream = interface end

namespace Sama.Functional

open System
open System.Collections
open System.Collections.Generic
open System.Reflection
open TorchSharp
open Sama

/// Modules that a delegate can reach through what it captured. A loss may call modules that no level owns (a frozen
/// encoder, a teacher): their buffers are part of a run's state too, since every pass in training mode moves them.
module internal Captured =

    let private ofLibrary (t: Type) =
        let name = t.Assembly.GetName().Name

        name.StartsWith "System"
        || name.StartsWith "Microsoft"
        || name.StartsWith "FSharp.Core"
        || name.StartsWith "TorchSharp"
        || name = "mscorlib"

    let private collection (t: Type) =
        t.IsArray
        || typeof<System.Runtime.CompilerServices.ITuple>.IsAssignableFrom t
        || typeof<IList>.IsAssignableFrom t
        || t.FullName.StartsWith "Microsoft.FSharp.Collections.FSharpList"

    let private fieldsOf (t: Type) =
        [ let mutable at = t

          while not (isNull at) && at <> typeof<obj> do
              yield!
                  at.GetFields(
                      BindingFlags.Instance
                      ||| BindingFlags.Public
                      ||| BindingFlags.NonPublic
                      ||| BindingFlags.DeclaredOnly
                  )

              at <- at.BaseType ]

    // closures are small; a data set that one captured is not searched to its end
    let private limit = 5_000

    /// What is wanted of all that a delegate can reach, outermost first, each once. Module-level values of F# are not
    /// captured, and not found.
    let private search<'wanted when 'wanted: not struct> (closure: obj) : 'wanted list =
        let found = List<'wanted>()
        let seen = HashSet<obj>(ReferenceEqualityComparer.Instance)
        let waiting = Queue<obj>()

        let add (value: obj) =
            if not (isNull value) && seen.Count < limit && seen.Add value then
                waiting.Enqueue value

        add closure

        while waiting.Count > 0 do
            match waiting.Dequeue() with
            | :? 'wanted as it -> found.Add it
            | :? torch.nn.Module
            | :? Tensor -> ()
            | :? Delegate as d -> add d.Target
            | value ->
                let t = value.GetType()

                if t.IsPrimitive || t.IsEnum || t = typeof<string> then
                    ()
                elif t.IsArray && not (t.GetElementType().IsPrimitive) then
                    for item in value :?> Array do
                        add item
                elif
                    not (ofLibrary t)
                    || collection t
                    || t.FullName.StartsWith "Microsoft.FSharp.Core.FSharpFunc"
                    || t.FullName.StartsWith "Microsoft.FSharp.Core.FSharpRef"
                    || (not (isNull t.BaseType)
                        && t.BaseType.FullName.StartsWith "Microsoft.FSharp.Core")
                then
                    for field in fieldsOf t do
                        if not field.FieldType.IsPrimitive && not field.FieldType.IsPointer then
                            add (field.GetValue value)

        List.ofSeq found

    /// The modules.
    let modules (closure: obj) : torch.nn.Module list = search closure

    /// True for a source of batches that is a stream.
    let holdsStream (closure: obj) : bool = not (search<IStream> closure).IsEmpty
