/// `bench exactness --json FILE [--picture FILE]`: every algorithm against the oracle.
module Sama.Benchmarks.Exactness.Bench

open TorchSharp
open Sama.Benchmarks.Exactness.Subject

/// What must be exact is within 1e-8 in a converged row, on each of P1 to P4.
let private required = [ "exact"; "conjugateGradient"; "neumann"; "unrolled" ]

let private missing (rows: Row list) =
    [ for problem in [ "P1"; "P2"; "P3"; "P4" ] do
          for algorithm in required do
              let good (r: Row) =
                  r.Problem = problem
                  && r.Algorithm = algorithm
                  && r.Converged
                  && r.RelativeError <= 1e-8

              if not (List.exists good rows) then
                  $"{problem} {algorithm}" ]

let private line (r: Row) =
    let converged = if r.Converged then "yes" else "no"

    $"| {r.Problem} | {r.Algorithm} | {r.Options} | {r.Rule} | {r.RelativeError:E1} | {r.Cosine:F4} | {r.Residual:E1} | {converged} | {r.Products} | {r.Milliseconds:F1} |"

/// Prints the rows as a table; 1 if an algorithm that must be exact is not.
let run (write: Row list -> unit) (picture: string option) : int =
    use _ = torch.NewDisposeScope()
    let rows = Measurements.rows 1
    write rows
    picture |> Option.iter (fun path -> Picture.write path rows)

    printfn "| problem | algorithm | options | rule | relative error | cosine | residual | converged | products | ms |"
    printfn "|---|---|---|---|---|---|---|---|---|---|"
    rows |> List.iter (line >> printfn "%s")

    match missing rows with
    | [] -> 0
    | names ->
        eprintfn $"""no converged row within 1e-8: {String.concat ", " names}"""
        1
