/// Trajectories, states and adaptations of update rules ("format": "rules 1").
module Sama.Fixtures.Rules

open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Fixtures.Row

let private vector (x: float[]) : Tensor = torch.tensor (x, dtype = torch.float64)

let private values (x: Tensor) : float[] =
    x.detach().reshape(-1L).data<float>().ToArray()

let private names (case: JsonElement) =
    [ for name in case.GetProperty("names").EnumerateArray() -> name.GetString() ]

let private layoutOf (case: JsonElement) : Layout =
    let shapes =
        [ for shape in case.GetProperty("shapes").EnumerateArray() ->
              [| for side in shape.EnumerateArray() -> side.GetInt64() |] ]

    Layout.create (List.zip (names case) shapes)

/// The parameters of each group, or all of them.
let private groupsOf (case: JsonElement) : (string list * JsonElement) list option =
    tryGet "groups" (case.GetProperty "options")
    |> Option.map (fun groups ->
        [ for group in groups.EnumerateArray() ->
              [ for name in group.GetProperty("parameters").EnumerateArray() -> name.GetString() ], group ])

let private ruleOf (case: JsonElement) : Result<UpdateRule, string> =
    let o = case.GetProperty "options"

    let one (name: string) (o: JsonElement) =
        RuleOptions.rule name o |> Result.map (RuleOptions.scheduled o)

    match groupsOf case with
    | None -> one (case.GetProperty("rule").GetString()) o
    | Some groups ->
        let rules =
            [ for members, group in groups -> members, one (group.GetProperty("rule").GetString()) group ]

        (Ok [], rules)
        ||> List.fold (fun all (members, rule) ->
            Result.bind (fun all -> rule |> Result.map (fun rule -> all @ [ members, rule ])) all)
        |> Result.map groupsByName
    |> Result.map (RuleOptions.clipped o)

/// The gradient of step t: the mean of its micro-gradients.
let private gradients (case: JsonElement) : float[] list =
    [ for g in case.GetProperty("gradients").EnumerateArray() ->
          if g[0].ValueKind = JsonValueKind.Array then
              let micros = [ for micro in g.EnumerateArray() -> numbers micro ]

              micros
              |> List.reduce (Array.map2 (+))
              |> Array.map (fun x -> x / float micros.Length)
          else
              numbers g ]

let rec private find (name: string) (state: RuleState) : Tensor option =
    match state.Tensors.TryGetValue name with
    | true, tensor -> Some tensor
    | _ -> state.Parts |> Seq.tryPick (find name)

/// A vector of the state in storage order, across groups.
let private stateVector (case: JsonElement) (layout: Layout) (state: RuleState) key : float[] =
    match groupsOf case with
    | None -> find key state |> Option.map values |> Option.defaultValue [||]
    | Some groups ->
        let rec node (state: RuleState) =
            if state.Parts.Count = groups.Length && (find key state.Parts[0]).IsSome then
                state
            else
                node state.Parts[state.Parts.Count - 1]

        let pieces =
            [ for (members, _), part in Seq.zip groups (node state).Parts do
                  let all = values (find key part).Value

                  let own =
                      [ for s in layout.Slices do
                            if List.contains s.Name members then
                                s ]

                  let ends = own |> List.scan (fun at s -> at + int s.Length) 0

                  for slice, start in List.zip own (List.take own.Length ends) do
                      slice.Name, all[start .. start + int slice.Length - 1] ]
            |> Map.ofList

        [| for slice in layout.Slices do
               yield! pieces[slice.Name] |]

/// Largest error of a coordinate, in units of 1e-11 |out| (of 1e-12 max |out| where out is 0); null coordinates are out.
let private adaptationError (adapted: float[]) (out: JsonElement) : float =
    let recorded =
        [ for x in out.EnumerateArray() ->
              if x.ValueKind = JsonValueKind.Null then
                  None
              else
                  Some(x.GetDouble()) ]

    let top = recorded |> List.choose id |> List.fold (fun top x -> max top (abs x)) 0.0

    let unit x =
        if x <> 0.0 then abs x
        elif top > 0.0 then top * 0.1
        else 1.0

    Seq.zip adapted recorded
    |> Seq.choose (fun (a, x) -> x |> Option.map (fun x -> abs (a - x) / unit x))
    |> Seq.fold max 0.0

let private stateRows family (case: JsonElement) layout (state: RuleState) (steps: int) : Row list =
    let name = case.GetProperty("name").GetString()
    let o = case.GetProperty "options"

    // optax's buffer of RMSprop holds −lr times the one of torch
    let factor key =
        if key = "momentum_buffer" && (tryGet "optax" o).IsSome then
            -(o.GetProperty("lr").GetDouble())
        else
            1.0

    let entry (key: string) (json: JsonElement) =
        match json.ValueKind with
        | JsonValueKind.Array ->
            distance (Array.map (fun x -> x * factor key) (stateVector case layout state key)) (numbers json)
        | JsonValueKind.Object ->
            [ for part in json.EnumerateObject() ->
                  distance (values (find $"{key}/{part.Name}" state).Value) (numbers part.Value) ]
            |> List.fold max 0.0
        | _ when key = "step" -> abs (float state.Count - json.GetDouble())
        | _ -> distance (stateVector case layout state key) [| json.GetDouble() |]

    [ for field in case.GetProperty("state").EnumerateObject() ->
          compared family name $"state {field.Name}" (Some steps) (entry field.Name field.Value) 1e-12 ]

let private trajectory family (case: JsonElement) (rule: UpdateRule) : Row list =
    use _ = torch.NewDisposeScope()
    let name = case.GetProperty("name").GetString()
    let layout = layoutOf case
    let bound = UpdateRule.bind layout rule

    let recorded =
        [ for theta in case.GetProperty("theta").EnumerateArray() -> numbers theta ]

    let adaptations =
        [ for a in case.GetProperty("adaptation").EnumerateArray() -> a.GetProperty("t").GetInt32(), a ]

    let start = vector (numbers (case.GetProperty "theta0"))

    let rows, (_, state) =
        ((start, bound.Init start), List.indexed (List.zip (gradients case) recorded))
        ||> List.mapFold (fun (theta, state) (i, (g, expected)) ->
            let t, g = i + 1, vector g
            let u, next = bound.Step state g theta
            let moved = theta - u

            let rows =
                [ compared family name "theta" (Some t) (distance (values moved) expected) 1e-12
                  for at, a in adaptations do
                      if at = t then
                          compared family name "u" (Some t) (distance (values u) (numbers (a.GetProperty "u"))) 1e-12
                          let out = a.GetProperty "out"

                          match bound.Adaptation with
                          | Ok adapt when out.ValueKind = JsonValueKind.Array ->
                              let adapted = adapt state g theta (vector (numbers (a.GetProperty "v")))
                              let error = adaptationError (values adapted) out
                              compared family name "adaptation" (Some t) error 1e-11
                          | Ok _ -> invalidOp $"{family}/{name}: this rule has no derivative, yet it is not refused"
                          | Error _ when out.ValueKind = JsonValueKind.Null -> ()
                          | Error reason -> invalidOp $"{family}/{name}: {reason}" ]

            rows, (moved, next))

    List.concat rows @ stateRows family case layout state recorded.Length

let private rates family (case: JsonElement) : Row list =
    let o = case.GetProperty "options"
    let lr, factor = o.GetProperty("lr").GetDouble(), RuleOptions.schedule o

    [ for t, value in Array.indexed (numbers (case.GetProperty "values")) ->
          let error = abs (lr * factor (int64 t) - value) / lr
          compared family (case.GetProperty("name").GetString()) "rate" (Some t) error 1e-12 ]

let private caseRows family (case: JsonElement) : Row list =
    if (tryGet "values" case).IsSome then
        rates family case
    else
        match ruleOf case with
        | Ok rule -> trajectory family case rule
        | Error reason ->
            [ for quantity in [ "theta"; "u"; "state"; "adaptation" ] ->
                  skipped family (case.GetProperty("name").GetString()) quantity reason ]

/// Reads the rules' files.
let reader: Bench.Reader =
    { Reads =
        fun _ root ->
            tryGet "format" root
            |> Option.exists (fun format -> format.GetString() = "rules 1")
      Rows =
        fun _ root ->
            let family = root.GetProperty("family").GetString()

            [ for case in root.GetProperty("cases").EnumerateArray() do
                  yield! caseRows family case ] }
