namespace Sama.TextCleaning

open System
open System.Collections.Generic
open System.IO
open Sama.DataOptimization

/// The rows of a cleaning, read: those to clean first, then the clean ones, then those that are predicted alone: rows
/// without label and vote, and the test rows.
[<NoComparison; NoEquality>]
type internal TextRows =
    {
        Classes: string[]
        /// all rows of the file
        Train: Dataset
        /// those of them that have a label or a vote, by place
        Labelled: int[]
        /// those that have neither
        Bare: int[]
        Clean: Dataset
        Test: Dataset
        /// whether each test row judges: it has a label, and its text was not trained on as a clean row
        Judges: bool[]
    }

    member rows.Texts: string[] =
        [| for place in rows.Labelled -> rows.Train.Rows[place].Text
           yield! rows.Clean.Texts
           for place in rows.Bare -> rows.Train.Rows[place].Text
           if not (isNull (box rows.Test)) then
               yield! rows.Test.Texts |]

/// Files to rows.
module internal TextRows =

    let private options (columns: ReadOptions) classes label truth votes required several =
        ReadOptions(
            TextColumn = columns.TextColumn,
            IdColumn = columns.IdColumn,
            Separator = columns.Separator,
            LabelColumn = label,
            TruthColumn = truth,
            VotesColumn = (if votes then columns.VotesColumn else null),
            VoteColumns = (if votes then columns.VoteColumns else null),
            Classes = classes,
            LabelRequired = required,
            SeveralClasses = several
        )

    /// WRENCH's labels are the right ones: they judge, and votes alone are cleaned.
    let private weak (data: Dataset) : Dataset =
        { data with
            Rows =
                data.Rows
                |> Array.map (fun row ->
                    { row with
                        Label = -1
                        Truth = row.Label }) }

    let private need (option: string) (path: string) =
        if String.IsNullOrEmpty path then
            raise (ArgumentException $"{option} is needed: a file of rows")

    let private judges (clean: Dataset) (test: Dataset) : bool[] =
        let seen = HashSet clean.Texts

        if isNull (box test) then
            [||]
        else
            test.Rows
            |> Array.map (fun row -> row.Label >= 0 && not (seen.Contains row.Text))

    /// What a reader of the results has to know of the rows.
    let notes (rows: TextRows) : string[] =
        let left = rows.Train.Rows.Length - rows.Labelled.Length - rows.Bare.Length
        let counts = rows.Clean.Rows |> Array.countBy _.Label |> dict

        let without =
            rows.Classes
            |> Array.indexed
            |> Array.filter (fst >> counts.ContainsKey >> not)
            |> Array.map snd

        let contradicted =
            rows.Clean.Rows
            |> Array.countBy _.Text
            |> Array.filter (fun (_, labels) -> labels > 1)

        let trained =
            if isNull (box rows.Test) then
                0
            else
                Array.zip rows.Test.Rows rows.Judges
                |> Array.filter (fun (row, judges) -> row.Label >= 0 && not judges)
                |> Array.length

        let shown (names: string[]) =
            String.Join(", ", Array.truncate 10 names)
            + (if names.Length > 10 then ", …" else "")

        [| if left > 0 then
               $"{left} of {rows.Train.Rows.Length} rows of {rows.Train.Name} are left out: their texts are clean or test rows'."
           if trained > 0 then
               $"{trained} of {rows.Test.Rows.Length} test rows do not judge: their texts are clean rows', which are trained on."
           if contradicted.Length > 0 then
               $"{contradicted.Length} texts of {rows.Clean.Name} have several labels among the clean rows, of which one at most is right."
           if without.Length > 0 then
               $"No clean row is of {without.Length} of {rows.Classes.Length} classes ({shown without}): nothing judges how well these are told, and training on the clean rows takes from them." |]

    let private bad (data: Dataset) (reason: string) : 'a =
        raise (DataException(data.Name, Nullable(), null, reason, null))

    /// Each text once under a label: one that is trained on must not judge. At least four, with as many votes as the rows to clean.
    let private usable (train: Dataset) (clean: Dataset) : Dataset =
        let rows = clean.Rows |> Array.distinctBy (fun row -> struct (row.Label, row.Text))

        if rows.Length < 4 then
            bad
                clean
                $"{rows.Length} clean rows of different texts: at least 4 are needed to train on some and to judge by others"

        if clean.Rules.Length > 0 && clean.Rules.Length <> train.Rules.Length then
            bad clean $"{clean.Rules.Length} votes a row, {train.Name} has {train.Rules.Length}"

        { clean with Rows = rows }

    /// Something to clean, of several classes.
    let private labelledRows (train: Dataset) : Dataset =
        match train.Classes with
        | [||] -> bad train "no row has a label or a vote"
        | [| one |] -> bad train $"all labels and votes are of one class, '{one}'; at least two are needed"
        | _ -> train

    /// Reads what the options name. DataException names file, line and column; FileNotFoundException.
    let read (o: TextCleaningOptions) : TextRows =
        need "--train" o.Train
        let columns = o.Columns

        let voted =
            not (isNull columns.VotesColumn)
            || not (isNull columns.VoteColumns) && columns.VoteColumns.Count > 0

        let wrench = DataReader.IsWrench o.Train
        let splits = if wrench then Some(DataReader.ReadWrench o.Train) else None

        let train =
            match splits with
            | Some splits -> weak splits.Train
            | None ->
                DataReader.Read(
                    o.Train,
                    options columns columns.Classes columns.LabelColumn columns.TruthColumn true (not voted) (not voted)
                )

        let train = labelledRows train
        let votes = train.Rules.Length > 0

        let file path required several =
            DataReader.Read(
                path,
                options
                    columns
                    train.Classes
                    columns.LabelColumn
                    null
                    (votes && not wrench && o.CleanVotes)
                    required
                    several
            )

        let clean =
            match splits with
            | Some splits when String.IsNullOrEmpty o.Clean -> splits.Valid
            | _ ->
                need "--clean" o.Clean
                file o.Clean true true

        let test =
            match splits with
            | Some splits when String.IsNullOrEmpty o.Test -> splits.Test
            | _ when String.IsNullOrEmpty o.Test -> Unchecked.defaultof<Dataset>
            | _ -> DataReader.Read(o.Test, options columns train.Classes columns.LabelColumn null false false false)

        // a text that is judged must not be trained on
        let judged =
            let labelled =
                if isNull (box test) then
                    [||]
                else
                    test.Rows |> Array.filter (fun row -> row.Label >= 0)

            HashSet(Seq.append clean.Texts (labelled |> Seq.map _.Text))

        let labelled, bare =
            Array.init train.Rows.Length id
            |> Array.filter (fun place -> not (judged.Contains train.Rows[place].Text))
            |> Array.partition (fun place ->
                let row = train.Rows[place]
                row.Label >= 0 || Array.exists (fun vote -> vote >= 0) row.Votes)

        if labelled.Length = 0 then
            raise (
                DataException(
                    train.Name,
                    Nullable(),
                    null,
                    "no row has a label or a vote, beside texts that are clean or test rows",
                    null
                )
            )

        { Classes = train.Classes
          Train = train
          Labelled = labelled
          Bare = bare
          Clean = usable train clean
          Test = test
          Judges = judges clean test }

    /// What cleaning asks for.
    let data (o: TextCleaningOptions) (rows: TextRows) : CleaningData =
        let row place = rows.Train.Rows[place]
        let votes = rows.Train.Rules.Length > 0

        CleaningData(
            rows.Classes.Length,
            rows.Labelled |> Array.map (fun place -> (row place).Label),
            rows.Clean.Labels,
            (if votes then
                 rows.Labelled |> Array.map (fun place -> (row place).Votes)
             else
                 null),
            (if votes && rows.Clean.Rules.Length > 0 then
                 rows.Clean.Votes
             else
                 null),
            rows.Bare.Length + (if isNull (box rows.Test) then 0 else rows.Test.Rows.Length),
            HashedTerms.FromTexts(rows.Texts, words = o.Tokens),
            o.Cleaning.Seed
        )
