/// The descent of λ itself: curves on P2, success on P5.
module Sama.Benchmarks.Descent.Bench

type Rows =
    { Quadratic: Curves.Row list
      Toy: Toy.Row list }

let run (write: Rows list -> unit) : int =
    let rows =
        { Quadratic = Curves.measure ()
          Toy = Toy.measure () }

    write [ rows ]
    let heads = Curves.budgets |> List.map (sprintf "%d") |> String.concat " | "
    printfn $"| method | K | rate | {heads} |"
    printfn "|---|---|---|%s" (Curves.budgets |> List.map (fun _ -> "---|") |> String.concat "")

    for r in rows.Quadratic do
        let squares = r.Squares |> List.map _.ToString("E1") |> String.concat " | "
        printfn $"| {r.Method} | {r.Unroll} | {r.Rate} | {squares} |"

    printfn "\n| method | success of 1,000 | median \\|x + y\\| | median projected gradient |"
    printfn "|---|---|---|---|"

    for r in rows.Toy do
        printfn $"| {r.Method} | {r.Success} | {r.Gap:E1} | {r.Gradient:E1} |"

    0
