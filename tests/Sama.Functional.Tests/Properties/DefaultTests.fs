/// Defaults: of options records, of the functions that take a rate alone, and of the recorded cases, by reflection.
module Sama.Tests.DefaultTests

open System
open System.IO
open System.Reflection
open System.Text.Json
open Expecto
open Microsoft.FSharp.Reflection
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private folder =
    Path.Combine(__SOURCE_DIRECTORY__, "..", "..", "fixtures", "rules")

/// What a recorded option is called here.
let private names =
    dict
        [ "lr", "LearningRate"
          "eps", "Epsilon"
          "eps1", "Epsilon1"
          "eps2", "Epsilon2"
          "d", "ClippingThreshold"
          "lr_decay", "LearningRateDecay"
          "initial_accumulator_value", "InitialAccumulator"
          "decoupled_weight_decay", "DecoupledDecay" ]

let private named (option: string) =
    match names.TryGetValue option with
    | true, name -> name
    | _ -> option.Replace("_", "")

/// What each file calls "defaults" is of the record of that name; PyTorch's AdamW decays by default, which `adamW` is
/// told.
let private recorded: (string * obj) list =
    [ "sgd", box SgdOptions.Default
      "adam", box AdamOptions.Default
      "adamw",
      box
          { AdamOptions.Default with
              WeightDecay = 1e-2
              DecoupledDecay = true }
      "adamax", box AdamaxOptions.Default
      "nadam", box NAdamOptions.Default
      "radam", box RAdamOptions.Default
      "rmsprop", box RmsPropOptions.Default
      "adagrad", box AdagradOptions.Default
      "adadelta", box AdadeltaOptions.Default
      "adafactor", box AdafactorOptions.Default ]

let private defaultsIn (family: string) : (string * obj) list option =
    use file =
        JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, $"{family}.json")))

    file.RootElement.GetProperty("cases").EnumerateArray()
    |> Seq.tryFind (fun case -> case.GetProperty("name").GetString() = "defaults")
    |> Option.map (fun case ->
        [ for option in case.GetProperty("options").EnumerateObject() ->
              option.Name,
              match option.Value.ValueKind with
              | JsonValueKind.True -> box true
              | JsonValueKind.False -> box false
              | _ -> box (option.Value.GetDouble()) ])

let private optionTypes =
    typeof<SgdOptions>.Assembly.GetExportedTypes()
    |> Array.filter (fun t -> t.Name.EndsWith "Options" && FSharpType.IsRecord t)

let private defaultOf (t: Type) =
    t.GetProperty("Default", BindingFlags.Static ||| BindingFlags.Public).GetValue null

/// u, state and adaptation of two rules over some steps from the same start.
let private alike what (a: UpdateRule) (b: UpdateRule) =
    use _ = torch.NewDisposeScope()
    let layout = Layout.create [ "m", [| 2L; 3L |]; "v", [| 2L |] ]
    let a, b = UpdateRule.bind layout a, UpdateRule.bind layout b
    let mutable theta = normal 1L [| 8L |]
    let mutable s, s' = a.Init theta, b.Init theta

    for t in 1L .. 3L do
        let g, v = normal (10L + t) [| 8L |], normal (20L + t) [| 8L |]

        match a.Adaptation, b.Adaptation with
        | Ok f, Ok f' -> Expect.isTrue ((f s g theta v).Equals(f' s' g theta v)) $"{what}: adaptation"
        | Error reason, Error reason' -> Expect.equal reason reason' what
        | _ -> failtest $"{what}: one has an adaptation"

        let u, next = a.Step s g theta
        let u', next' = b.Step s' g theta
        Expect.isTrue (u.Equals u') $"{what}: u"
        theta <- theta - u
        s <- next
        s' <- next'

/// `name` and `nameWith` of the core's modules, the options record of the second.
let private pairs =
    [ for m in typeof<SgdOptions>.Assembly.GetExportedTypes() do
          if m.Namespace = "Sama.Functional" && FSharpType.IsModule m then
              for long in m.GetMethods(BindingFlags.Static ||| BindingFlags.Public) do
                  match List.ofArray (long.GetParameters()) with
                  | [ options ] when long.Name.EndsWith "With" && Array.contains options.ParameterType optionTypes ->
                      long.Name.Substring(0, long.Name.Length - 4), m, long, options.ParameterType
                  | _ -> () ]

let private withField (record: obj) (name: string) (value: obj) =
    let t = record.GetType()

    FSharpValue.MakeRecord(
        t,
        [| for field in FSharpType.GetRecordFields t ->
               if String.Equals(field.Name, name, StringComparison.OrdinalIgnoreCase) then
                   value
               else
                   field.GetValue record |]
    )

let tests =
    testList
        "defaults"
        [ for family, options in recorded do
              testCase $"{family}: the record's defaults are those of the recorded run"
              <| fun _ ->
                  match defaultsIn family with
                  | None -> Expect.equal family "sgd" "the one without such a case"
                  | Some expected ->
                      Expect.isGreaterThan expected.Length 3 "options"

                      for option, value in expected do
                          let property =
                              options
                                  .GetType()
                                  .GetProperty(
                                      named option,
                                      BindingFlags.IgnoreCase ||| BindingFlags.Public ||| BindingFlags.Instance
                                  )

                          Expect.isNotNull property $"{family} has an option {option}"

                          match property.GetValue options with
                          // null: the machine epsilon, which the recorded run names
                          | null -> Expect.equal value (box (torch.finfo(f64).eps)) option
                          | own -> Expect.equal own value $"{family}.{option}"

          testCase "every options record has a Default whose values are in range"
          <| fun _ ->
              Expect.isGreaterThan optionTypes.Length 18 "records"

              for t in optionTypes do
                  Expect.isNotNull (defaultOf t) t.Name

              for name, _, long, t in pairs do
                  Expect.isNotNull (long.Invoke(null, [| defaultOf t |])) name

          testCase "PyTorch's and the papers' defaults, as they are written there"
          <| fun _ ->
              let rates =
                  [ "SgdOptions", 1e-3
                    "AdamOptions", 1e-3
                    "AdamaxOptions", 2e-3
                    "NAdamOptions", 2e-3
                    "RAdamOptions", 1e-3
                    "RmsPropOptions", 1e-2
                    "AdagradOptions", 1e-2
                    "AdadeltaOptions", 1.0
                    "AdafactorOptions", 1e-2
                    "LambOptions", 1e-3
                    "LionOptions", 1e-4
                    "AsgdOptions", 1e-2 ]

              for name, rate in rates do
                  let record = optionTypes |> Array.find (fun t -> t.Name = name) |> defaultOf
                  Expect.equal (record.GetType().GetProperty("LearningRate").GetValue record) (box rate) name

              for t in optionTypes do
                  let record = defaultOf t

                  for field in FSharpType.GetRecordFields t do
                      match field.Name, field.GetValue record with
                      | "Beta1", value -> Expect.equal value (box 0.9) t.Name
                      | "Beta2", value ->
                          Expect.equal value (box (if t.Name = "LionOptions" then 0.99 else 0.999)) t.Name
                      | "WeightDecay", value ->
                          Expect.equal value (box (if t.Name = "LionOptions" then 1e-3 else 0.0)) t.Name
                      | ("Maximize" | "Nesterov" | "AmsGrad" | "Centered" | "DecoupledDecay" | "OneSided" | "Recompute"),
                        value -> Expect.equal value (box false) $"{t.Name}.{field.Name}"
                      | ("Nudge" | "Damping"), value when t.Name <> "SamaFisherOptions" ->
                          Expect.equal value (box 0.0) $"{t.Name}.{field.Name}"
                      | _ -> ()

          testCase "a rule by its rate alone is the rule of the default options with that rate"
          <| fun _ ->
              let rules =
                  pairs
                  |> List.filter (fun (_, _, long, _) -> long.ReturnType = typeof<UpdateRule>)

              Expect.isGreaterThan rules.Length 11 "rules"

              for name, m, long, t in rules do
                  let short = m.GetMethod(name, [| typeof<float> |])
                  Expect.isNotNull short $"{name} of a rate"

                  for rate in [ 1e-2; 0.3 ] do
                      let options = withField (defaultOf t) "LearningRate" (box rate)

                      alike
                          name
                          (short.Invoke(null, [| box rate |]) :?> UpdateRule)
                          (long.Invoke(null, [| options |]) :?> UpdateRule)

              alike
                  "adamW"
                  (adamW 0.1 0.2)
                  (adamWith
                      { AdamOptions.Default with
                          LearningRate = 0.1
                          WeightDecay = 0.2
                          DecoupledDecay = true })

              alike
                  "amsgrad"
                  (amsgrad 0.1)
                  (adamWith
                      { AdamOptions.Default with
                          LearningRate = 0.1
                          AmsGrad = true })

              alike "clipByGlobalNorm" (clipByGlobalNorm 0.5) (clipByGlobalNormWith 1e-6 0.5)

          testCase "a method by its name alone is that of the default options"
          <| fun _ ->
              use _ = torch.NewDisposeScope()

              let short =
                  [ "sama", Hypergradient.sama, Hypergradient.samaWith SamaOptions.Default
                    "samaNa", Hypergradient.samaNa, Hypergradient.samaNaWith SamaOptions.Default
                    "samaFisher", Hypergradient.samaFisher, Hypergradient.samaFisherWith SamaFisherOptions.Default
                    "exact", Hypergradient.exact, Hypergradient.exactWith ExactOptions.Default
                    "neumann", Hypergradient.neumann 5 1.0, Hypergradient.neumannWith NeumannOptions.Default
                    "conjugateGradient",
                    Hypergradient.conjugateGradient 20,
                    Hypergradient.conjugateGradientWith ConjugateGradientOptions.Default
                    "fixedPoint",
                    Hypergradient.fixedPoint 100 1.0,
                    Hypergradient.fixedPointWith FixedPointOptions.Default
                    "nystrom", Hypergradient.nystrom 10, Hypergradient.nystromWith NystromOptions.Default
                    "unrolled", Hypergradient.unrolled, Hypergradient.unrolledWith UnrolledOptions.Default
                    "f2sa", Hypergradient.f2sa, Hypergradient.f2saWith F2saOptions.Default ]

              for name, short, long in short do
                  let h method =
                      let problem = quadratic (sgd 0.1) 1 method
                      use start = after 2 problem
                      (Hypergradient.compute problem start).Total

                  Expect.isTrue ((h short).Equals(h long)) name ]
