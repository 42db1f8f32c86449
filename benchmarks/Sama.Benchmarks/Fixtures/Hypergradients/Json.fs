/// Vectors, matrices and comparisons of the hypergradient fixtures.
module Sama.Fixtures.Hypergradients.Json

open System.Text.Json
open Sama.Fixtures
open Sama.Reference

let item (name: string) (json: JsonElement) : JsonElement = json.GetProperty name
let number name json : float = (item name json).GetDouble()
let integer name json : int = (item name json).GetInt32()
let text name json : string = (item name json).GetString()

let numberOr (otherwise: float) name json : float =
    Row.tryGet name json
    |> Option.map _.GetDouble()
    |> Option.defaultValue otherwise

let items name json : JsonElement list =
    [ for x in (item name json).EnumerateArray() -> x ]

let integers name json : int[] =
    [| for x in items name json -> x.GetInt32() |]

let vector name json : Vec =
    Numbers.vector (Row.numbers (item name json))

let matrix name json : Mat =
    Numbers.rows (items name json |> List.map Row.numbers)

/// Which rows a comparison belongs to.
type Place =
    { Family: string
      Case: string
      T: int option }

/// ‖a − b‖ ≤ tolerance·‖b‖; b = 0 wants a = 0.
let vectorRow (place: Place) quantity tolerance (found: Vec) (expected: Vec) : Row.Row =
    let error =
        if found.Count <> expected.Count then
            infinity
        else
            let apart, size = Numbers.norm (found - expected), Numbers.norm expected
            if size = 0.0 then apart else apart / size

    Row.compared place.Family place.Case quantity place.T error tolerance

let private flat (m: Mat) : Vec =
    Numbers.vector (m.EnumerateRows() |> Seq.collect id)

let matrixRow place quantity tolerance (found: Mat) (expected: Mat) : Row.Row =
    vectorRow place quantity tolerance (flat found) (flat expected)

/// |a − b| ≤ tolerance·max(scale, |b|)
let scaledRow (scale: float) (place: Place) quantity tolerance (found: float) (expected: float) : Row.Row =
    let error = abs (found - expected) / max scale (abs expected)
    Row.compared place.Family place.Case quantity place.T error tolerance

/// |a − b| ≤ tolerance·max(1, |b|): losses, norms, residuals.
let numberRow place quantity tolerance found expected : Row.Row =
    scaledRow 1.0 place quantity tolerance found expected

/// The comparison of a vector to the exact one: `relativeError`, `normRatio` and `cosine` of the json.
let comparisonRows place prefix tolerance (found: Vec) (exact: Vec) (json: JsonElement) : Row.Row list =
    [ "relativeError", Numbers.relativeError found exact
      "normRatio", Numbers.norm found / Numbers.norm exact
      "cosine", Numbers.cosine found exact ]
    |> List.map (fun (key, value) -> numberRow place (prefix + key) tolerance value (number key json))
