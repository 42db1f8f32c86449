namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Runtime.InteropServices

/// What scores rows.
type internal Scorer =
    | AtRandom
    | ErrorNorm of models: int
    | GradientNorm of models: int
    | ForgettingCount
    | UnderMargin
    | Boundary
    | Learned of Weigher

/// Which rows of an order by scores are kept.
type KeptRows =
    /// those that the method itself keeps, its best
    | Best = 0
    /// those at the other end
    | OtherEnd = 1
    /// some of all strata of the scores (`Keep.CoverageCentric`)
    | Coverage = 2
    /// some whatever their scores
    | Random = 3

module internal KeptNames =

    let all =
        [ KeptRows.Best, "the best rows"
          KeptRows.OtherEnd, "the rows at the other end"
          KeptRows.Coverage, "rows of all strata"
          KeptRows.Random, "rows at random" ]

/// What a method's name asks for: scores, and which rows are kept by them; null: which is to be judged.
type internal AskedScore =
    { Scorer: Scorer
      Base: string
      Kept: Nullable<KeptRows> }

/// Scores of rows, and what they cost.
[<NoComparison; NoEquality>]
type PruningScore =
    {
        /// the method's name
        Method: string
        /// one a row, in the order in which the rows were given
        Scores: float[]
        /// whether the best rows are those of high scores; else those of low ones
        KeepsHighest: bool
        /// which rows are kept
        Kept: KeptRows
        /// why these, where that was judged by held-out rows; else null
        Judgement: Choice
        /// seconds that its search took, judging included: of the processor, or on CUDA of the clock
        Seconds: float
        /// what SAMA's net has learned, which weighs rows of other data and models too; null for other methods
        Lambda: float32[]
    }

    /// The rows' numbers, by place among the scores, that make up a share of all, sorted. Equal scores are decided by the
    /// seed; with `labels` each class keeps its share, but for coverage, which does not look at classes and cuts the
    /// `hardCutoff` share of best rows off first. As `Keep.ByScore`, `Keep.CoverageCentric` and `Keep.AtRandom`.
    member score.Keep
        (share: float, labels: int[], seed: int, [<Optional; DefaultParameterValue(0.0)>] hardCutoff: float)
        : int[] =
        match score.Kept with
        | KeptRows.Coverage ->
            Keep.CoverageCentric(score.Scores, share, hardCutoff, highestIsHardest = score.KeepsHighest, seed = seed)
        | KeptRows.Random -> Keep.AtRandom(score.Scores.Length, share, labels, seed)
        | kept -> Keep.ByScore(score.Scores, share, (score.KeepsHighest = (kept = KeptRows.Best)), labels, seed)

    /// Which rows are kept, in words: the best rows, the rows at the other end, rows of all strata, rows at random.
    member score.KeptName: string =
        KeptNames.all |> List.find (fst >> (=) score.Kept) |> snd

    /// The scores of some rows, given by place.
    member score.At(places: int[]) : PruningScore =
        { score with
            Scores = places |> Array.map (fun place -> score.Scores[place]) }

/// Names of methods that score rows.
[<AbstractClass; Sealed>]
type PruningMethod =

    static let plain =
        [ "sama", Learned Net
          "sama-rows", Learned Table
          "forgetting", ForgettingCount
          "aum", UnderMargin
          "margin", Boundary
          "random", AtRandom ]

    static let counted = [ "el2n", ErrorNorm; "grand", GradientNorm ]

    static let prefixes =
        [ "easy-", Nullable KeptRows.OtherEnd
          "ccs-", Nullable KeptRows.Coverage
          "judged-", Nullable() ]

    /// Names with what they are, for help: N is a number of models, 1 on; METHOD is one of the others.
    static member Known: IReadOnlyList<struct (string * string)> =
        [| struct ("sama", "weights of a net of loss and uncertainty that SAMA learns")
           struct ("sama-rows", "one weight a row that SAMA learns")
           struct ("el2n-N", "norm of the error early in training, mean over N models")
           struct ("grand-N", "norm of the gradient early in training, mean over N models")
           struct ("forgetting", "how often a full training forgets a row")
           struct ("aum", "margin of the label over a full training; low is kept")
           struct ("margin", "distance to the boundary early in training; near is kept")
           struct ("random", "no search")
           struct ("easy-METHOD", "the other end of its scores")
           struct ("ccs-METHOD", "rows from all strata of its scores")
           struct ("judged-METHOD",
                   "after a search of half the length the best, the other end, all strata or rows at random, whichever trains better for a short while; not of forgetting and aum") |]

    /// ArgumentException for a name that is none.
    static member internal Parse(name: string) : AskedScore =
        Check.notNull (nameof name) name

        let bad () =
            let known = PruningMethod.Known |> Seq.map (fun struct (name, _) -> name)
            let all = String.Join(", ", known)
            Check.fail (nameof name) $"'{name}' is no method; there are: {all}"

        let scorer (name: string) =
            match List.tryFind (fst >> (=) name) plain, name.Split '-' with
            | Some(_, scorer), _ -> scorer
            | None, [| kind; models |] ->
                match List.tryFind (fst >> (=) kind) counted, Int32.TryParse models with
                | Some(_, scorer), (true, count) when count > 0 -> scorer count
                | _ -> bad ()
            | _ -> bad ()

        match
            prefixes
            |> List.tryFind (fun (prefix, _) -> name.StartsWith(prefix, StringComparison.Ordinal))
        with
        | None ->
            { Scorer = scorer name
              Base = name
              Kept = Nullable KeptRows.Best }
        | Some(prefix, kept) ->
            match scorer name[prefix.Length ..] with
            | AtRandom -> bad ()
            // a model that has learned its rows by heart judges none of them
            | ForgettingCount
            | UnderMargin when not kept.HasValue -> bad ()
            | scorer ->
                { Scorer = scorer
                  Base = name[prefix.Length ..]
                  Kept = kept }

    /// Whether it is the name of a method. False for null.
    static member IsKnown(name: string) : bool =
        try
            PruningMethod.Parse name |> ignore
            true
        with :? ArgumentException ->
            false
