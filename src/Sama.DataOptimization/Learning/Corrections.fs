namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// Learners of what labels should be.
[<AbstractClass; Sealed>]
type Corrections =

    /// In the votes' place where there are none: the given label, as of one rule.
    static let votesOf (batch: RowBatch) : Tensor =
        if isNull batch.Votes then
            batch.Labels.unsqueeze 1L
        else
            batch.Votes

    static let softmax (x: Tensor) = torch.nn.functional.softmax (x, 1L)

    /// (1 − s) c + s p: learned labels beside the prediction. A product of the two has no fixed point, since the model
    /// follows its target, which moves on.
    static let mixed (share: Tensor) (learned: Tensor) (view: RowView) : Tensor =
        learned * (1.0 - share) + view.Opinion.exp () * share

    static let free (_: string -> Tensor) : Tensor = torch.zeros 1L |> _.sum()

    /// A label model over the rules' votes as λ: c = softmax(b + Σ over rules that vote of W[rule][vote]), a rule's
    /// reliability by class, few enough numbers for few clean rows. It starts at `model` and is pulled back to it by
    /// strength/(2 · clean rows) ‖λ − start‖², so that with a mean loss over clean rows `strength` is the precision of the
    /// belief in the start, as in `LogLinear.Fit`. The label is (1 − s) c + s p with p the prediction and s = σ(a learned
    /// number that starts at `share`). Without votes, a model of one rule is over the given label, which it corrects by
    /// class. ArgumentException for a strength below 0, no clean rows or a share outside (0, 1).
    static member LabelModel
        (
            model: LogLinearModel,
            cleanRows: int,
            [<Optional; DefaultParameterValue(3.0)>] strength: float,
            [<Optional; DefaultParameterValue(0.3)>] share: float
        ) : DataLearner =
        Check.notNull (nameof model) model
        Check.that (nameof cleanRows) (cleanRows > 0) (fun () -> $"{cleanRows} clean rows")
        Check.least (nameof strength) 0.0 strength
        Check.that (nameof share) (share > 0.0 && share < 1.0) (fun () -> $"{share} is not in (0, 1)")
        let bias, weights = model.Bias, model.Weights
        let rules, classes = weights.Length, bias.Length
        let flat = weights |> Array.collect (Array.collect (Array.map float32))
        let shareLogit = float32 (log (share / (1.0 - share)))

        let start _ =
            Features.kept
                [ "bias", torch.tensor (Array.map float32 bias)
                  "reliability", torch.tensor(flat).view (int64 (rules * classes), int64 classes)
                  "share", torch.tensor [| shareLogit |] ]

        let judge (find: string -> Tensor) (view: RowView) =
            Features.requireClasses classes view.Batch
            let votes = votesOf view.Batch

            if votes.shape[1] <> int64 rules then
                invalidArg "batch" $"the label model has {rules} rules, the table {votes.shape[1]}"

            let first =
                torch.arange (0L, int64 (rules * classes), int64 classes, dtype = torch.int64, device = votes.device)

            let casts =
                votes.ge(Scalar.op_Implicit 0L).to_type(view.Batch.Known.dtype).unsqueeze 2L

            let at = (votes.clamp_min (Scalar.op_Implicit 0L) + first).reshape -1L

            let said =
                (find "reliability").index_select(0L, at).view (votes.shape[0], int64 rules, int64 classes)

            let learned = softmax ((said * casts).sum 1L + find "bias")

            { Logits = null
              Targets = mixed (torch.sigmoid (find "share")) learned view }

        let pull (find: string -> Tensor) =
            let from (name: string) (start: float32[]) =
                let value = find name
                (value.reshape -1L - torch.tensor (start, device = value.device)).square().sum ()

            (from "bias" (Array.map float32 bias)
             + from "reliability" flat
             + from "share" [| shareLogit |])
            * (strength / (2.0 * float cleanRows))

        DataLearner("label model", start, judge, pull)

    /// A label from given label, votes, prediction and the text: w t + (1 − w)((1 − s) c + s p), c = softmax(t + evidence),
    /// the evidence a table's rows of the text's terms, added up and divided by the root of their number, taken four times
    /// (it then moves four times as far in a step of Adam, as a term that few batches hold needs). w and s come from a
    /// judge as in `ExampleWeights.FromFeatures`. As in meta label correction (Zheng et al., 2021) c is learned, here from
    /// a table that does not move under it. `size` · classes numbers: for hundreds of clean rows, not for tens.
    /// ArgumentException for sizes below 1.
    static member FromTerms
        (
            classes: int,
            [<Optional; DefaultParameterValue(0)>] rules: int,
            [<Optional; DefaultParameterValue(32768)>] size: int,
            [<Optional; DefaultParameterValue(16)>] hidden: int
        ) : DataLearner =
        Check.that (nameof classes) (classes > 1) (fun () -> $"{classes} classes: at least two are expected")
        Check.that (nameof rules) (rules >= 0) (fun () -> $"{rules} rules")
        Check.that (nameof size) (size > 0) (fun () -> $"a table of {size} rows")
        Check.that (nameof hidden) (hidden > 0) (fun () -> $"{hidden} hidden units")
        let features = RowFeatures.Loss ||| RowFeatures.Margin ||| RowFeatures.Entropy
        let clues = int64 (classes + rules)

        let start (seed: int64) =
            use generator = new torch.Generator(uint64 seed)
            let columns = int64 classes + Features.width features

            Features.kept
                [ "clues", torch.zeros (2L, clues)
                  "hidden", torch.randn (int64 hidden, columns, generator = generator) * 0.3
                  "hiddenBias", torch.zeros (int64 hidden)
                  "output", torch.zeros (2L, int64 hidden)
                  "outputBias", torch.tensor [| 0f; -1f |]
                  "terms", torch.zeros (int64 size, int64 classes) ]

        let evidence (find: string -> Tensor) (batch: RowBatch) =
            if isNull batch.Terms then
                invalidArg "batch" "the table does not tell the rows' terms"

            let rows, width = batch.Terms.shape[0], batch.Terms.shape[1]
            let zero = Scalar.op_Implicit 0L

            let present = batch.Terms.ge(zero).to_type(batch.Known.dtype).unsqueeze 2L

            let each =
                (Features.rowsOf (find "terms") "term" ((batch.Terms.clamp_min zero).reshape -1L))
                    .view (rows, width, -1L)

            4.0 * (each * present).sum 1L
            / present.sum(1L).clamp_min(Scalar.op_Implicit 1.0).sqrt ()

        let judge (find: string -> Tensor) (view: RowView) =
            Features.requireClasses classes view.Batch
            let given = view.Batch.Given

            let known =
                if rules > 0 then
                    if isNull view.Batch.Votes || view.Batch.Votes.shape[1] <> int64 rules then
                        invalidArg "batch" $"the votes of {rules} rules are asked for; the table has others"

                    torch.cat ([| given; Features.agreement view.Batch |], 1L)
                else
                    given

            let inner =
                torch.tanh (
                    Features.linear
                        (torch.cat ([| Features.predicted features view; given |], 1L))
                        (find "hidden")
                        (find "hiddenBias")
                )

            let out =
                torch.sigmoid (
                    Features.linear inner (find "output") (find "outputBias")
                    + Features.linear known (find "clues") null
                )

            let weight, share = out.narrow (1L, 0L, 1L), out.narrow (1L, 1L, 1L)
            let learned = softmax (given + evidence find view.Batch)

            { Logits = null
              Targets = given * weight + mixed share learned view * (1.0 - weight) }

        DataLearner("correction by terms", start, judge, free)
