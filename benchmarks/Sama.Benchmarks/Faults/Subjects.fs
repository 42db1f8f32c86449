/// Problems that are trained, killed and resumed: families of rules, methods, heights.
module Sama.Benchmarks.Faults.Subjects

open TorchSharp
open Sama
open Sama.Functional

let private normal (seed: int64) (shape: int64[]) : Tensor =
    use g = new torch.Generator(uint64 seed)
    torch.randn (shape, generator = g)

let private scale (x: float) : Scalar = Scalar.op_Implicit x

/// Regression by a net of two layers with dropout, its losses re-weighted by a net on the losses; shuffled batches.
let private reweighting (hidden: int64) unroll (rule: UpdateRule) method : BilevelProblem =
    let inputs, rows = 16L, 96L
    let x, metaX = normal 1L [| rows; inputs |], normal 2L [| rows; inputs |]
    let target (x: Tensor) = torch.sin(x.sum 1L).unsqueeze 1L

    let y, metaY = target x + normal 3L [| rows; 1L |] * scale 0.5, target metaX

    let losses (p: Params) (x: Tensor) (y: Tensor) =
        let h = torch.tanh (torch.nn.functional.linear (x, p["W1"], p["b1"]))
        let h = torch.nn.functional.dropout (h, 0.2, true)
        (torch.nn.functional.linear (h, p["W2"], p["b2"]) - y).square().squeeze 1L

    let weight (lambda: Params) (l: Tensor) =
        torch.sigmoid (torch.tanh(l.unsqueeze 1L * lambda["A1"] + lambda["a1"]).mv lambda["A2"])

    Problem.create
        { BilevelOptions.Default with
            Unroll = unroll }
        method
        [ Level.create
              "net"
              [ "W1", normal 4L [| hidden; inputs |] * scale 0.2
                "b1", torch.zeros hidden
                "W2", normal 5L [| 1L; hidden |] * scale 0.1
                "b2", torch.zeros 1L ]
              rule
              (Batches.shuffled (Rows.pair x y) 16)
              (fun pass theta lambda (x, y) ->
                  let l = losses theta x y
                  (weight lambda (pass.Stop("losses", l)) * l).mean ())
          Level.create
              "weights"
              [ "A1", normal 6L [| 4L |]; "a1", normal 7L [| 4L |]; "A2", normal 8L [| 4L |] ]
              (adam 1e-2)
              (Batches.shuffled (Rows.pair metaX metaY) 16)
              (fun _ theta _ (x, y) -> (losses theta x y).mean ()) ]

let private threeLevels () : BilevelProblem =
    let part (levels: Levels) name = levels[name].["x"]

    let level name seed size rule =
        Level.general name [ "x", normal seed [| size |] ] rule id

    let square (x: Tensor) = x.square ()

    Problem.create
        { BilevelOptions.Default with
            Unroll = 2 }
        Hypergradient.sama
        [ level "low" 1L 400L (adam 0.01) (fun _ levels draw ->
              let noise = normal draw.RandomSeed [| 400L |]

              (square (part levels "low" - (part levels "mid").sum () * scale 0.1 + noise * scale 0.1)).mean ()
              * (part levels "top").exp().mean ())
          level "mid" 2L 30L (sgd 0.02) (fun _ levels _ ->
              (square ((part levels "low").mean () - (part levels "mid"))).sum ())
          |> Level.every 2
          level "top" 3L 5L (adam 0.01) (fun _ levels _ ->
              (square ((part levels "mid").sum () - scale 1.0)).sum ()
              + (square (part levels "top")).sum ()) ]

let private families: (string * UpdateRule) list =
    [ "sgd with momentum",
      sgdWith
          { SgdOptions.Default with
              Momentum = 0.9 }
      "adam", adam 1e-3
      "adamW", adamW 1e-3 0.01
      "rmsprop", rmsprop 1e-3
      "adagrad", adagrad 1e-2
      "lamb", lamb 1e-3
      "adafactor", adafactor 1e-3
      "clip, adam, schedule",
      UpdateRule.chain [ clipByGlobalNorm 0.3; adam 1e-3 ]
      |> UpdateRule.scheduled (fun t -> 1.0 / float (t + 1L))
      "groups", UpdateRule.groups [ (fun name -> name = "b1"), adam 1e-2; (fun _ -> true), sgd 0.05 ] ]

/// By name; each call makes a problem anew.
let all: (string * (unit -> BilevelProblem)) list =
    [ for name, rule in families do
          $"sama, {name}", fun () -> reweighting 64L 2 rule Hypergradient.sama
      "unrolled, adam, K = 5", (fun () -> reweighting 64L 5 (adam 1e-3) Hypergradient.unrolled)
      "three levels", threeLevels
      "sama, adam, 150,000 parameters", (fun () -> reweighting 8192L 2 (adam 1e-3) Hypergradient.sama) ]

let find (name: string) : BilevelProblem =
    match all |> List.tryFind (fun (own, _) -> own = name) with
    | Some(_, make) -> make ()
    | None -> raise (System.ArgumentException $"no subject is named '{name}'")
