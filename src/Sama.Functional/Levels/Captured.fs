namespace Sama.Functional

open System
open System.Collections.Generic
open System.Reflection
open System.Reflection.Emit
open TorchSharp

/// Modules that a delegate can reach: through what it captured, and through the static fields (module-level values of F#)
/// that it and the methods it calls read. A loss may call modules that no level owns (a frozen encoder, a teacher): their
/// buffers are part of a run's state too, since every pass in training mode moves them.
module internal Captured =

    let private reach =
        Reach(fun t ->
            if typeof<torch.nn.Module>.IsAssignableFrom t then Some true
            elif typeof<torch.Tensor>.IsAssignableFrom t then Some false
            elif typeof<Delegate>.IsAssignableFrom t then Some true
            else None)

    let private ofLibrary (t: Type) =
        let name = t.Assembly.GetName().Name

        name.StartsWith "System."
        || name.StartsWith "Microsoft."
        || name = "FSharp.Core"
        || name = "TorchSharp"
        || name = "Sama.Functional"
        || name = "Sama.CSharp"
        || name = "mscorlib"

    let private opcodes =
        lazy
            (dict
                [ for field in typeof<OpCodes>.GetFields(BindingFlags.Public ||| BindingFlags.Static) do
                      let code = field.GetValue null :?> OpCode
                      code.Value, code ])

    /// Field and method tokens of a method's instructions.
    let private tokens (il: byte[]) : (OperandType * int) list =
        let found = List<OperandType * int>()
        let mutable at = 0

        while at < il.Length do
            let value =
                if il[at] = 0xFEuy && at + 1 < il.Length then
                    at <- at + 2
                    int16 (0xFE00 ||| int il[at - 1])
                else
                    at <- at + 1
                    int16 il[at - 1]

            match opcodes.Value.TryGetValue value with
            | true, code ->
                match code.OperandType with
                | OperandType.InlineNone -> ()
                | OperandType.ShortInlineBrTarget
                | OperandType.ShortInlineI
                | OperandType.ShortInlineVar -> at <- at + 1
                | OperandType.InlineVar -> at <- at + 2
                | OperandType.InlineI8
                | OperandType.InlineR -> at <- at + 8
                | OperandType.InlineSwitch -> at <- at + 4 + 4 * BitConverter.ToInt32(il, at)
                | OperandType.InlineField
                | OperandType.InlineMethod
                | OperandType.InlineTok as kind ->
                    found.Add(kind, BitConverter.ToInt32(il, at))
                    at <- at + 4
                | _ -> at <- at + 4
            | _ -> at <- il.Length

        List.ofSeq found

    /// The members that a method's body names; none where it has no body that can be read.
    let private mentioned (m: MethodBase) : MemberInfo list =
        try
            match m.GetMethodBody() with
            | null -> []
            | body ->
                let ofType =
                    if isNull m.DeclaringType then
                        [||]
                    else
                        m.DeclaringType.GetGenericArguments()

                let ofMethod = if m.IsGenericMethod then m.GetGenericArguments() else [||]

                [ for _, token in tokens (body.GetILAsByteArray()) do
                      match
                          (try
                              m.Module.ResolveMember(token, ofType, ofMethod)
                           with _ ->
                               null)
                      with
                      | null -> ()
                      | found -> found ]
        with _ ->
            []

    // closures are small; what is larger is somebody's data
    let private limit = 20_000

    /// Methods by which an object that the library calls runs: its own for a closure of F#, none for other objects.
    let private bodies (value: obj) : MethodBase seq =
        let t = value.GetType()

        if
            ofLibrary t
            || isNull t.BaseType
            || t.BaseType.Assembly.GetName().Name <> "FSharp.Core"
        then
            Seq.empty
        else
            t.GetMethods(BindingFlags.Instance ||| BindingFlags.Public ||| BindingFlags.DeclaredOnly)
            |> Seq.cast<MethodBase>

    /// What was met, and what is still to be looked at.
    type private Search() =
        let seen = HashSet<obj>(ReferenceEqualityComparer.Instance)
        let read = HashSet<MethodBase>()
        let objects, code = Queue<obj>(), Queue<MethodBase>()

        member val Found = List<torch.nn.Module>()

        member _.Add(value: obj) : unit =
            if
                not (isNull value)
                && seen.Count < limit
                && reach.MayHold(value.GetType())
                && seen.Add value
            then
                objects.Enqueue value

        member private _.Call(m: MethodBase) : unit =
            if
                not (isNull m)
                && not (isNull m.DeclaringType)
                && not (ofLibrary m.DeclaringType)
                && read.Count < limit
                && read.Add m
            then
                code.Enqueue m

        member private search.Visit(value: obj) : unit =
            match value with
            | :? torch.nn.Module as m -> search.Found.Add m
            | :? Delegate as d ->
                for one in d.GetInvocationList() do
                    search.Add one.Target
                    search.Call one.Method
            | _ ->
                let t = value.GetType()
                Seq.iter search.Call (bodies value)

                // made now, since the loss is to ask for it anyway
                if
                    t.IsGenericType
                    && t.GetGenericTypeDefinition() = typedefof<Lazy<_>>
                    && typeof<torch.nn.Module>.IsAssignableFrom(t.GetGenericArguments()[0])
                then
                    search.Add(t.GetProperty("Value").GetValue value)

                Seq.iter search.Add (reach.References value)

        member private search.Follow(m: MethodBase) : unit =
            for part in mentioned m do
                match part with
                | :? FieldInfo as field when
                    field.IsStatic
                    && not field.IsLiteral
                    && not (ofLibrary field.DeclaringType)
                    && reach.MayHold field.FieldType
                    ->
                    search.Add(field.GetValue null)
                | :? MethodBase as callee -> search.Call callee
                | _ -> ()

        member search.Run() : unit =
            while objects.Count + code.Count > 0 do
                if objects.Count > 0 then
                    search.Visit(objects.Dequeue())
                else
                    search.Follow(code.Dequeue())

    /// The modules, outermost ones first, each once.
    let modules (closure: obj) : torch.nn.Module list =
        let search = Search()
        search.Add closure
        search.Run()
        List.ofSeq search.Found
