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

    /// The modules, outermost ones first, each once. Module-level values of F# are not captured, and not found.
    let modules (closure: obj) : torch.nn.Module list =
        let found = List<torch.nn.Module>()
        let seen = HashSet<obj>(ReferenceEqualityComparer.Instance)
        let waiting = Queue<obj>()

        let add (value: obj) =
            if not (isNull value) && seen.Count < limit && seen.Add value then
                waiting.Enqueue value

        add closure

        while waiting.Count > 0 do
            match waiting.Dequeue() with
            | :? torch.nn.Module as m -> found.Add m
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
