namespace Sama.DataOptimization

open System.Collections.Generic

/// A row of numbers, one a class, of every vote of every rule: [rule][vote][class]. Rows that are not given are made when
/// they are asked for.
[<Sealed>]
type internal VoteRows
    (rules: int, classes: int, otherwise: int -> float[], given: Dictionary<struct (int * int), float[]>) =
    member _.Rules = rules
    member _.Given = given

    /// Borrowed.
    member _.Row(rule: int, vote: int) : float[] =
        match given.TryGetValue(struct (rule, vote)) with
        | true, row -> row
        | _ -> otherwise vote

    /// Copies.
    member rows.All: float[][][] =
        Array.init rules (fun rule -> Array.init classes (fun vote -> Array.copy (rows.Row(rule, vote))))

    /// The same with what a function makes of every row.
    member _.Map(change: float[] -> float[]) : VoteRows =
        let changed =
            given |> Seq.map (fun item -> KeyValuePair(item.Key, change item.Value))

        VoteRows(rules, classes, otherwise >> change, Dictionary changed)

    /// The same with other rows for some votes.
    member _.With(others: Dictionary<struct (int * int), float[]>) : VoteRows =
        let merged = Dictionary given

        for item in others do
            merged[item.Key] <- item.Value

        VoteRows(rules, classes, otherwise, merged)
