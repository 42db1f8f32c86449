namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Globalization

/// A row as a file has it: names of classes, not yet numbers.
[<NoComparison>]
type internal RawRow =
    { RawId: string
      RawText: string
      RawLabel: string
      RawTruth: string
      RawVotes: string[]
      RawLine: int }

/// From what a file says to rows, the same for every format.
module internal RowBuilder =

    let private bad file line column reason : 'a =
        TextFile.bad file (Nullable line) column reason

    let private nothing (value: string) = String.IsNullOrWhiteSpace value

    let private abstains (value: string) =
        nothing value || Spelling.whole value = "-1"

    let private isWhole (name: string) =
        match Int64.TryParse(name, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) with
        | true, value -> value.ToString CultureInfo.InvariantCulture = name
        | _ -> false

    /// Whole numbers by value, where all are; else by code points.
    let private sorted (names: string seq) : string[] =
        let names = names |> Seq.distinct |> Array.ofSeq

        if names |> Array.forall (Spelling.whole >> isWhole) then
            names |> Array.map Spelling.whole |> Array.distinct |> Array.sortBy int64
        else
            Array.sortWith (fun a b -> String.CompareOrdinal(a, b)) names

    /// Two spellings of one class would be two classes: DataException.
    let private distinct (file: string) (names: string[]) : string[] =
        for _, same in names |> Array.groupBy Spelling.alike do
            if same.Length > 1 then
                TextFile.bad
                    file
                    (Nullable())
                    null
                    $"the classes '{same[0]}' and '{same[1]}' are written almost alike{Spelling.difference same[0] same[1]}: make them one, or name all classes in the options if both are meant"

        names

    let private classes (file: string) (options: ReadOptions) (rows: RawRow[]) : string[] =
        let found =
            seq {
                for row in rows do
                    yield! Seq.filter (nothing >> not) [ row.RawLabel; row.RawTruth ]
                    yield! Seq.filter (abstains >> not) row.RawVotes
            }

        let names =
            if isNull options.Classes then
                distinct file (sorted found)
            else
                Array.ofSeq options.Classes

        if names |> Array.distinct |> Array.length < names.Length then
            TextFile.bad file (Nullable()) null "a class is named twice in the options"

        let labels =
            rows
            |> Seq.map _.RawLabel
            |> Seq.filter (nothing >> not)
            |> Seq.distinct
            |> Array.ofSeq

        if options.SeveralClasses && not (isNull options.LabelColumn) && labels.Length < 2 then
            TextFile.bad
                file
                (Nullable())
                options.LabelColumn
                (if labels.Length = 0 then
                     "no row has a label"
                 else
                     $"all rows are of one class, '{labels[0]}'; at least two are needed")

        names

    /// Numbers for names; DataException for a label that is missing, unknown or alone, or a row without text.
    let build (file: string) (options: ReadOptions) (rules: string[]) (rows: RawRow[]) : Dataset =
        if rows.Length = 0 then
            TextFile.bad file (Nullable()) null "there are no rows"

        let names = classes file options rows
        let numbers = Dictionary<string, int>()
        names |> Array.iteri (fun number name -> numbers[name] <- number)

        names
        |> Array.iteri (fun number name -> numbers.TryAdd(Spelling.whole name, number) |> ignore)

        let isAmbiguous = numbers.ContainsKey "-1"

        let number line column (name: string) =
            match numbers.TryGetValue name, numbers.TryGetValue(Spelling.whole name) with
            | (true, number), _
            | _, (true, number) -> number
            | _ ->
                let known = String.Join(", ", names |> Seq.truncate 20)

                let hint =
                    names
                    |> Seq.filter (fun own -> Spelling.alike own = Spelling.alike name)
                    |> Seq.map (fun own -> $"; '{own}' is written almost alike{Spelling.difference own name}")
                    |> Seq.tryHead
                    |> Option.defaultValue ""

                bad file line column $"'{name}' is not one of the {names.Length} classes: {known}{hint}"

        let row (raw: RawRow) =
            if nothing raw.RawText then
                bad file raw.RawLine options.TextColumn "the row has no text"

            let label column required (value: string) =
                if not (nothing value) then
                    number raw.RawLine column value
                elif required then
                    bad file raw.RawLine column "the row has no label"
                else
                    -1

            { Id = raw.RawId
              Text = raw.RawText
              Label = label options.LabelColumn (options.LabelRequired && not (isNull options.LabelColumn)) raw.RawLabel
              Truth = label options.TruthColumn false raw.RawTruth
              Votes =
                raw.RawVotes
                |> Array.mapi (fun rule vote ->
                    if abstains vote then
                        if isAmbiguous && not (nothing vote) then
                            bad
                                file
                                raw.RawLine
                                rules[rule]
                                "the vote -1 is an abstention, and -1 is a class as well: leave the field empty where a rule abstains, and name the class otherwise"

                        -1
                    else
                        number raw.RawLine rules[rule] vote)
              Line = raw.RawLine }

        { Name = file
          Classes = names
          Rules = rules
          Rows = Array.map row rows }
