/// What C# sees of the library.
module Sama.Language.Tests.SurfaceTests

open System
open System.Reflection
open Expecto
open Sama
open Sama.Language

let rec private parts (t: Type) : Type list =
    if t.HasElementType then
        parts (t.GetElementType())
    elif t.IsGenericType then
        t :: (t.GetGenericArguments() |> List.ofArray |> List.collect parts)
    else
        [ t ]

let private signature (m: MemberInfo) : Type list =
    match m with
    | :? MethodBase as m ->
        [ for p in m.GetParameters() do
              yield p.ParameterType
          match m with
          | :? MethodInfo as m -> yield m.ReturnType
          | _ -> () ]
    | :? PropertyInfo as p -> [ p.PropertyType ]
    | :? FieldInfo as f -> [ f.FieldType ]
    | _ -> []

let private isFSharp (t: Type) =
    t.FullName <> null && t.FullName.StartsWith "Microsoft.FSharp"

let private seen =
    [ yield! typeof<Encoder>.Assembly.GetExportedTypes()
      typeof<Safetensors>
      typeof<SafetensorsFile>
      typeof<SafetensorsWriter>
      typeof<SafetensorsFolder>
      typeof<SafetensorsEntry> ]

let tests =
    testList
        "surface"
        [ testCase "no F# type in a public signature"
          <| fun _ ->
              let found =
                  [ for t in seen do
                        for m in
                            t.GetMembers(
                                BindingFlags.Public
                                ||| BindingFlags.Instance
                                ||| BindingFlags.Static
                                ||| BindingFlags.DeclaredOnly
                            ) do
                            for s in signature m |> List.collect parts do
                                if isFSharp s then
                                    $"{t.FullName}.{m.Name}: {s.FullName}" ]

              Expect.isEmpty found "F# types"

          testCase "every public type is the project's own namespace's"
          <| fun _ ->
              for t in typeof<Encoder>.Assembly.GetExportedTypes() do
                  Expect.equal t.Namespace "Sama.Language" t.FullName ]
