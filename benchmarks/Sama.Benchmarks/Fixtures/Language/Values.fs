/// Values of the language fixtures, and rows of their comparison.
module Sama.Fixtures.Language.Values

open System
open System.Text.Json
open TorchSharp
open Sama
open Sama.Fixtures.Hypergradients.Json
open Sama.Fixtures.Row

/// A number, or one of the strings that stand for those that JSON has not.
let real (json: JsonElement) : float =
    match json.ValueKind with
    | JsonValueKind.String ->
        match json.GetString() with
        | "nan" -> nan
        | "inf" -> infinity
        | "-inf" -> -infinity
        | other -> invalidArg (nameof json) $"'{other}' is no number"
    | JsonValueKind.True -> 1.0
    | JsonValueKind.False -> 0.0
    | _ -> json.GetDouble()

/// All numbers of nested lists, row-major.
let rec flat (json: JsonElement) : float seq =
    match json.ValueKind with
    | JsonValueKind.Array -> json.EnumerateArray() |> Seq.collect flat
    | _ -> Seq.singleton (real json)

/// Whole numbers of nested lists.
let rec whole (json: JsonElement) : int64 seq =
    match json.ValueKind with
    | JsonValueKind.Array -> json.EnumerateArray() |> Seq.collect whole
    | _ -> Seq.singleton (json.GetInt64())

let strings (json: JsonElement) : string[] =
    [| for item in json.EnumerateArray() -> item.GetString() |]

/// Numbers of a tensor of any type, row-major.
let numbersOf (tensor: Tensor) : float[] =
    if tensor.numel () = 0L then
        [||]
    else
        use wide = tensor.detach().to_type(torch.float64).cpu().contiguous ()
        wide.data<float>().ToArray()

let wholeOf (tensor: Tensor) : int64[] =
    use wide = tensor.to_type(torch.int64).contiguous ()
    wide.data<int64>().ToArray()

/// Equal or not: 0 or 1 against 0.
let sameRow family case quantity (equal: bool) : Row =
    compared family case quantity None (if equal then 0.0 else 1.0) 0.0

/// |a − b| ≤ tolerance·max(1, |b|) everywhere; NaN wants NaN.
let closeRow family case quantity (tolerance: float) (found: float[]) (expected: float[]) : Row =
    let error =
        if found.Length <> expected.Length then
            infinity
        else
            (0.0, found, expected)
            |||> Array.fold2 (fun worst a b ->
                if Double.IsNaN b then
                    (if Double.IsNaN a then worst else nan)
                else
                    Math.Max(worst, abs (a - b) / max 1.0 (abs b)))

    compared family case quantity None error tolerance

/// The body's rows, or one row that failed with its error: a fixture never ends the others.
let guarded family case (body: unit -> Row list) : Row list =
    try
        body ()
    with e ->
        [ { compared family case "error" None nan 0.0 with
              Reason = e.Message } ]
