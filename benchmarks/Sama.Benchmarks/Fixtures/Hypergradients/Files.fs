/// Files of hypergradient fixtures, told apart by their name up to the first `-`.
module Sama.Fixtures.Hypergradients.Files

open System.Text.Json
open TorchSharp
open Sama.Fixtures
open Sama.Fixtures.Hypergradients.Json

let private points (place: Place) (file: JsonElement) =
    use _ = torch.NewDisposeScope()
    let losses = Data.losses file

    let at i point =
        Points.rows { place with Case = $"points[{i}]" } losses point

    (items "points" file |> List.mapi at |> List.concat)
    @ Tables.rows place losses file

let private conditionNumbers (place: Place) (file: JsonElement) =
    let case i (json: JsonElement) =
        use _ = torch.NewDisposeScope()

        Points.rows
            { place with
                Case = $"""cases[{i}] condition={number "drawnConditionNumber" json}""" }
            (Data.losses json)
            (item "point" json)

    items "cases" file |> List.mapi case |> List.concat

let private families =
    Map
        [ for p in [ "p1"; "p2"; "p3"; "p4" ] do
              p, points
          "p7", conditionNumbers
          "rules", FixedPoints.rows
          "sama", NetworkFiles.rows
          "reweighting", NetworkFiles.rows
          "label", NetworkFiles.rows
          "trilevel", Trilevels.rows ]

let private familyOf (file: JsonElement) = (text "file" file).Split('-')[0]

/// Files whose `readme` is that of the hypergradients. ArgumentException for a name of no known family.
let reader: Bench.Reader =
    { Reads = fun _ file -> Row.tryGet "readme" file |> Option.map _.GetString() = Some "README-hypergradients.md"
      Rows =
        fun _ file ->
            match families.TryFind(familyOf file) with
            | Some rows ->
                rows
                    { Family = text "file" file
                      Case = ""
                      T = None }
                    file
            | None -> invalidArg "file" $"""'{text "file" file}' belongs to no family of hypergradient fixtures""" }
