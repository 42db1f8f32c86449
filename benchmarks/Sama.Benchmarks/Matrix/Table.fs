/// The matrix as text.
module Sama.Benchmarks.Matrix.Table

open System
open System.IO
open Sama.Benchmarks.Matrix.Subject
open Sama.Benchmarks.Matrix.Cells

/// One cell.
[<NoComparison; NoEquality>]
type Cell =
    { Rule: string
      Method: string
      Way: string
      Outcome: Outcome }

/// Every cell of a rule in one way.
let row (rule: Rules.Rule) (way: Way) : Cell list =
    [ for method, outcome in Cells.row rule way ->
          { Rule = rule.Name
            Method = method.Name
            Way = way.Name
            Outcome = outcome } ]

let right (cells: Cell list) =
    cells |> List.filter (fun c -> c.Outcome.IsRight) |> List.length

let refused (cells: Cell list) =
    cells |> List.filter (fun c -> c.Outcome.IsRefused) |> List.length

let wrong (cells: Cell list) : string list =
    [ for cell in cells do
          match cell.Outcome with
          | Wrong what -> $"{cell.Method} under {cell.Rule}, {cell.Way}: {what}"
          | _ -> () ]

/// Reasons of refusals, in the order of the notes a, b, c.
let private reasons =
    [ "cannot be differentiated twice", "the base level is a module, which cannot be differentiated twice"
      "couples coordinates", "the rule couples coordinates (or is not declared elementwise)"
      "a sign", "the rule's update is a sign, whose derivative is 0; a surrogate is to be named" ]

let private note (words: string) : string =
    let i = reasons |> List.findIndex (fun (own, _) -> own = words)
    string (char (int 'a' + i))

/// Right cells, and refused ones with the notes of their reasons: "7 + 1 a".
let private count (cells: Cell list) =
    let notes =
        [ for cell in cells do
              match cell.Outcome with
              | Refused words -> note words
              | _ -> () ]

    match notes with
    | [] -> string (right cells)
    | _ ->
        let letters = notes |> List.distinct |> List.sort |> String.concat ""
        $"{right cells} + {notes.Length} {letters}"

let private line (words: string list) =
    let words = String.Join(" | ", words)
    $"| {words} |"

/// The table of all cells in Markdown.
let markdown (cells: Cell list) : string list =
    let named = methods |> List.map _.Name |> List.distinct

    [ $"{cells.Length} cells: {right cells} right, {refused cells} refused when the problem is composed, {(wrong cells).Length} else."
      ""
      line ("rule" :: named)
      line [ for _ in "rule" :: named -> "---" ]
      for rule, own in cells |> List.groupBy _.Rule do
          line (
              rule
              :: [ for name in named -> count (own |> List.filter (fun c -> c.Method = name)) ]
          )
      ""
      "Refused, with the reason in the message:"
      ""
      for words, text in reasons do
          let all = cells |> List.filter (fun c -> c.Outcome = Refused words)
          $"- {note words}: {text} ({all.Length})."
      ""
      line [ "way"; "right"; "refused" ]
      line [ "---"; "---"; "---" ]
      for way, own in cells |> List.groupBy _.Way do
          line [ way; string (right own); string (refused own) ] ]

let private first, last = "<!-- matrix: generated -->", "<!-- end of matrix -->"

/// A file's lines before the table, the table, and behind it. InvalidDataException for a file without its markers.
let parts (path: string) : string[] * string[] * string[] =
    let lines = File.ReadAllLines path

    match Array.IndexOf(lines, first), Array.IndexOf(lines, last) with
    | i, k when 0 <= i && i < k -> lines[..i], lines[i + 1 .. k - 1], lines[k..]
    | _ -> raise (InvalidDataException $"{path} has no lines '{first}' and '{last}'")

/// Puts the table between the file's markers.
let write (path: string) (cells: Cell list) : unit =
    let before, _, behind = parts path
    File.WriteAllLines(path, Array.concat [ before; Array.ofList (markdown cells); behind ])
