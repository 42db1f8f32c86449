namespace Sama.DataOptimization

open System
open System.Collections.Generic

/// What scores rows.
type internal Scorer =
    | AtRandom
    | ErrorNorm of models: int
    | GradientNorm of models: int
    | ForgettingCount
    | UnderMargin
    | Boundary
    | Learned of Weigher

/// Scores of rows, and what they cost.
[<NoComparison; NoEquality>]
type PruningScore =
    {
        /// the method's name
        Method: string
        /// one a row, in the order in which the rows were given
        Scores: float[]
        /// whether rows of high scores are kept; else those of low ones
        KeepsHighest: bool
        /// seconds that its search took: of the processor, or on CUDA of the clock
        Seconds: float
        /// what SAMA's net has learned, which weighs rows of other data and models too; null for other methods
        Lambda: float32[]
    }

    /// The rows' numbers, by place among the scores, that make up a share of all, sorted. Equal scores are decided by the
    /// seed; with `labels` each class keeps its share. As `Keep.ByScore`.
    member score.Keep(share: float, labels: int[], seed: int) : int[] =
        Keep.ByScore(score.Scores, share, score.KeepsHighest, labels, seed)

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

    /// Names with what they are, for help: N is a number of models, 1 on.
    static member Known: IReadOnlyList<struct (string * string)> =
        [| struct ("sama", "weights of a net of loss and uncertainty that SAMA learns")
           struct ("sama-rows", "one weight a row that SAMA learns")
           struct ("el2n-N", "norm of the error early in training, mean over N models")
           struct ("grand-N", "norm of the gradient early in training, mean over N models")
           struct ("forgetting", "how often a full training forgets a row")
           struct ("aum", "margin of the label over a full training; low is kept")
           struct ("margin", "distance to the boundary early in training; near is kept")
           struct ("random", "no search") |]

    /// ArgumentException for a name that is none.
    static member internal Parse(name: string) : Scorer =
        Check.notNull (nameof name) name

        let bad () =
            let known = PruningMethod.Known |> Seq.map (fun struct (name, _) -> name)
            let all = String.Join(", ", known)
            Check.fail (nameof name) $"'{name}' is no method; there are: {all}"

        match List.tryFind (fst >> (=) name) plain, name.Split '-' with
        | Some(_, scorer), _ -> scorer
        | None, [| kind; models |] ->
            match List.tryFind (fst >> (=) kind) counted, Int32.TryParse models with
            | Some(_, scorer), (true, count) when count > 0 -> scorer count
            | _ -> bad ()
        | _ -> bad ()

    /// Whether it is the name of a method. False for null.
    static member IsKnown(name: string) : bool =
        try
            PruningMethod.Parse name |> ignore
            true
        with :? ArgumentException ->
            false
