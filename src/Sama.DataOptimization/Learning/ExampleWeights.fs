namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// Learners of what rows weigh. All start with equal weights.
[<AbstractClass; Sealed>]
type ExampleWeights =

    static let none (_: string -> Tensor) : Tensor = torch.zeros 1L |> _.sum()

    /// A weight from what is seen of a row (Meta-Weight-Net; Shu et al., 2019): a linear path from label and votes, whose
    /// weights are reliabilities of labels and rules, and a net of `hidden` tanh units on what depends on the prediction
    /// and on the label. `rules` is the table's number of rules. ArgumentException for no feature, or sizes below 1.
    static member FromFeatures
        (
            classes: int,
            [<Optional; DefaultParameterValue(0)>] rules: int,
            [<Optional;
              DefaultParameterValue(RowFeatures.Loss
                                    ||| RowFeatures.Margin
                                    ||| RowFeatures.Entropy
                                    ||| RowFeatures.Label
                                    ||| RowFeatures.Votes)>] features: RowFeatures,
            [<Optional; DefaultParameterValue(16)>] hidden: int
        ) : DataLearner =
        Check.that (nameof classes) (classes > 1) (fun () -> $"{classes} classes: at least two are expected")
        Check.that (nameof rules) (rules >= 0) (fun () -> $"{rules} rules")
        Check.that (nameof hidden) (hidden > 0) (fun () -> $"{hidden} hidden units")
        Check.that (nameof features) (int features > 0 && int features < 64) (fun () -> $"{features} is no feature")
        let has = Features.has features
        let label = if has RowFeatures.Label then int64 classes else 0L
        let votes = if has RowFeatures.Votes then int64 rules else 0L
        let seen = Features.width features

        let clues (view: RowView) =
            [| if label > 0L then
                   Features.requireClasses classes view.Batch
                   view.Batch.Given
               if votes > 0L then
                   if isNull view.Batch.Votes || view.Batch.Votes.shape[1] <> votes then
                       invalidArg "batch" $"the votes of {votes} rules are asked for; the table has others"

                   Features.agreement view.Batch |]

        let start (seed: int64) =
            use generator = new torch.Generator(uint64 seed)

            Features.kept
                [ if label + votes > 0L then
                      "clues", torch.zeros (1L, label + votes)
                  if seen > 0L then
                      "hidden", torch.randn (int64 hidden, seen + label, generator = generator) * 0.3
                      "hiddenBias", torch.zeros (int64 hidden)
                      "output", torch.zeros (1L, int64 hidden)
                  "bias", torch.zeros 1L ]

        let judge (find: string -> Tensor) (view: RowView) =
            let linear (x: Tensor) (name: string) = Features.linear x (find name) null

            let fromClues =
                if label + votes > 0L then
                    linear (torch.cat (clues view, 1L)) "clues"
                else
                    torch.zeros_like (view.Batch.Known.unsqueeze 1L)

            let fromPrediction =
                if seen > 0L then
                    let input =
                        torch.cat (
                            [| Features.predicted features view
                               if label > 0L then
                                   view.Batch.Given |],
                            1L
                        )

                    linear (torch.tanh (linear input "hidden" + find "hiddenBias")) "output"
                else
                    torch.zeros_like fromClues

            { Logits = (fromClues + fromPrediction + find "bias").squeeze 1L
              Targets = null }

        DataLearner("weights from features", start, judge, none)

    static member private Table(name: string, what: string, size: int, index: RowBatch -> Tensor) =
        DataLearner(
            name,
            (fun _ -> Features.kept [ "logits", torch.zeros (int64 size) ]),
            (fun find view ->
                { Logits = Features.rowsOf (find "logits") what (index view.Batch)
                  Targets = null }),
            none
        )

    /// One weight a row of the table (Ren et al., 2018, kept between steps). ArgumentException for fewer than one row.
    static member PerRow(rows: int) : DataLearner =
        Check.that (nameof rows) (rows > 0) (fun () -> $"{rows} rows")
        ExampleWeights.Table("a weight a row", "row", rows, _.Rows)

    /// One weight a source or domain. ArgumentException for fewer than two sources.
    static member PerSource(sources: int) : DataLearner =
        Check.that (nameof sources) (sources > 1) (fun () -> $"{sources} sources: at least two are expected")

        ExampleWeights.Table(
            "a weight a source",
            "source",
            sources,
            fun batch ->
                if isNull batch.Sources then
                    invalidArg "batch" "the table does not tell the rows' sources"

                batch.Sources
        )
