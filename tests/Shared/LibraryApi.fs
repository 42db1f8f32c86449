/// A library is used from C# as it is: no F# types before it, everything documented, every null argument named.
module Sama.Tests.LibraryApi

open System
open System.IO
open System.Reflection
open System.Runtime.CompilerServices
open System.Xml.Linq
open Expecto

let private declared =
    BindingFlags.Public
    ||| BindingFlags.Instance
    ||| BindingFlags.Static
    ||| BindingFlags.DeclaredOnly

let rec private parts (t: Type) : Type seq =
    seq {
        if t.HasElementType then
            yield! parts (t.GetElementType())
        else
            t

            if t.IsGenericType then
                for argument in t.GetGenericArguments() do
                    yield! parts argument
    }

let private signature (m: MemberInfo) : Type seq =
    match m with
    | :? MethodInfo as m -> Seq.append [ m.ReturnType ] (m.GetParameters() |> Seq.map _.ParameterType)
    | :? ConstructorInfo as m -> m.GetParameters() |> Seq.map _.ParameterType
    | :? PropertyInfo as m -> [ m.PropertyType ]
    | _ -> []

let private generated (m: MemberInfo) =
    m.IsDefined typeof<CompilerGeneratedAttribute>
    || m.Name.Contains '<'
    || m.Name.Contains '@'

let private plumbing =
    set [ "ToString"; "Equals"; "GetHashCode"; "CompareTo"; "value__"; ".ctor" ]

let tests (library: Assembly) =
    testList
        "api"
        [ testCase "no F# type in a public signature"
          <| fun _ ->
              let found =
                  [ for t in library.GetExportedTypes() do
                        for m in t.GetMembers declared do
                            if not (generated m) then
                                for part in signature m |> Seq.collect parts do
                                    if not (isNull part.Namespace) && part.Namespace.StartsWith "Microsoft.FSharp" then
                                        $"{t.Name}.{m.Name}: {part.Name}" ]

              Expect.isEmpty found "F# types"

          testCase "every public member is documented"
          <| fun _ ->
              let documented =
                  XDocument.Load(Path.ChangeExtension(library.Location, ".xml")).Descendants(XName.Get "member")
                  |> Seq.filter (fun m -> (m.Element(XName.Get "summary")).Value.Trim().Length > 0)
                  |> Seq.map (fun m -> m.Attribute(XName.Get "name").Value.Split('(').[0].Split("``").[0])
                  |> Set.ofSeq

              let missing =
                  [ for t in library.GetExportedTypes() do
                        if not (documented.Contains $"T:{t.FullName}") then
                            t.FullName

                        for m in t.GetMembers declared do
                            let special =
                                match m with
                                | :? MethodInfo as m -> m.IsSpecialName
                                | _ -> false

                            if not (generated m || special || plumbing.Contains m.Name) then
                                let name = $"{t.FullName}.{m.Name}"

                                if not ("MPF" |> Seq.exists (fun kind -> documented.Contains $"{kind}:{name}")) then
                                    name ]

              Expect.isEmpty missing "undocumented"

          testCase "a null argument is named, never a null reference"
          <| fun _ ->
              let plain (t: Type) : obj =
                  if t.IsValueType then Activator.CreateInstance t
                  elif t = typeof<string> then "x"
                  else null

              let silent =
                  [ for t in library.GetExportedTypes() do
                        if t.IsAbstract && t.IsSealed then
                            for m in t.GetMethods declared do
                                let required = m.GetParameters() |> Array.filter (fun p -> not p.IsOptional)

                                if required |> Array.exists (fun p -> isNull (plain p.ParameterType)) then
                                    let arguments =
                                        m.GetParameters()
                                        |> Array.map (fun p ->
                                            if p.IsOptional then
                                                p.DefaultValue
                                            else
                                                plain p.ParameterType)

                                    try
                                        m.Invoke(null, arguments) |> ignore
                                        $"{t.Name}.{m.Name} accepted null"
                                    with :? TargetInvocationException as e ->
                                        if not (e.InnerException :? ArgumentException) then
                                            $"{t.Name}.{m.Name}: {e.InnerException.GetType().Name} {e.InnerException.Message}" ]

              Expect.isEmpty silent "nulls" ]
