/// Comparisons of the library with recorded numbers: one row a quantity and a step.
module Sama.Fixtures.Row

open System
open System.Text.Json

/// `Error` and `Tolerance` are on one scale. A skipped row was not computed, `Reason` says why.
[<NoComparison>]
type Row =
    { Family: string
      Case: string
      Quantity: string
      T: Nullable<int>
      Error: Nullable<float>
      Tolerance: Nullable<float>
      Passed: bool
      Skipped: bool
      Reason: string }

/// A comparison; NaN fails.
let compared family case quantity (t: int option) (error: float) (tolerance: float) : Row =
    { Family = family
      Case = case
      Quantity = quantity
      T = Option.toNullable t
      Error = Nullable error
      Tolerance = Nullable tolerance
      Passed = (error <= tolerance)
      Skipped = false
      Reason = null }

/// A quantity that the library does not offer, and why.
let skipped family case quantity (reason: string) : Row =
    { Family = family
      Case = case
      Quantity = quantity
      T = Nullable()
      Error = Nullable()
      Tolerance = Nullable()
      Passed = false
      Skipped = true
      Reason = reason }

/// True for a row that was computed and missed its tolerance.
let failed (row: Row) = not row.Passed && not row.Skipped

/// max |a − b| / max |b|; |a − b| where b is 0 throughout. Infinite for lengths that differ.
let distance (a: float[]) (b: float[]) : float =
    if a.Length <> b.Length then
        infinity
    else
        let largest = b |> Array.fold (fun top x -> max top (abs x)) 0.0

        let apart =
            Array.fold2 (fun (top: float) (x: float) y -> Math.Max(top, abs (x - y))) 0.0 a b

        if largest = 0.0 then apart else apart / largest

/// Numbers of a json array.
let numbers (json: JsonElement) : float[] =
    [| for x in json.EnumerateArray() -> x.GetDouble() |]

/// A property of a json object that need not be there.
let tryGet (name: string) (json: JsonElement) : JsonElement option =
    match json.TryGetProperty name with
    | true, value -> Some value
    | _ -> None
