namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices

/// A Dawid–Skene model that was fitted: each rule's votes given the true class, independent of the other rules'.
[<Sealed>]
type DawidSkeneModel
    internal
    (
        prior: float[],
        confusion: float[][][],
        abstentions: bool,
        posterior: float[][],
        objective: float[],
        converged: bool
    ) =
    let classes = prior.Length

    let score (row: int[]) =
        Array.init classes (fun c ->
            let mutable sum = log prior[c]

            row
            |> Array.iteri (fun rule vote ->
                let chances = confusion[rule][c]

                if vote >= 0 then
                    sum <- sum + log chances[vote]
                elif abstentions then
                    sum <- sum + log chances[classes])

            sum)

    /// Estimated share of each true class.
    member _.Prior = Array.copy prior

    /// Estimated probabilities of votes, [rule][true class][vote]; where abstentions are modelled the last vote is the
    /// abstention.
    member _.Confusion = Array.map (Array.map Array.copy) confusion

    /// p(true class | votes) of the rows it was fitted on, [row][class].
    member _.Posterior = Array.map Array.copy posterior

    /// What EM maximises, after every iteration, and never decreases: log p(votes, known labels), plus `smoothing`
    /// times the logs of all parameters.
    member _.Objective = Array.copy objective

    /// Whether the last iteration gained less than the tolerance asked for.
    member _.Converged = converged
    member internal _.Score = score

    /// p(true class | votes) of any rows, [row][class]. ArgumentException for votes of other rules or classes.
    member _.Predict(votes: int[][]) : float[][] =
        let rules = Check.votes (nameof votes) classes votes

        Check.that (nameof votes) (rules = confusion.Length) (fun () ->
            $"{rules} votes a row, the model has {confusion.Length} rules")

        Array.map (score >> Simplex.softmax) votes

/// The label model of Dawid and Skene (1979). It finds the classes that explain the votes best, which need not be the
/// classes meant: on the 68 rules of TREC it gives .464 right labels where the majority gives .532; `LogLinear` cannot
/// drift like that.
[<AbstractClass; Sealed>]
type DawidSkene =

    /// Rows by true class and vote, and the classes, as the posterior has them: the M-step with `smoothing` rows added
    /// to each outcome (the mode under a Dirichlet prior of 1 + smoothing).
    static member private Maximise(votes: int[][], posterior: float[][], classes, outcomes, smoothing) =
        let rules = votes[0].Length

        let counts =
            Array.init rules (fun _ -> Array.init classes (fun _ -> Array.create outcomes smoothing))

        let prior = Array.create classes smoothing

        Array.iter2
            (fun (row: int[]) (q: float[]) ->
                for c in 0 .. classes - 1 do
                    prior[c] <- prior[c] + q[c]

                    for rule in 0 .. rules - 1 do
                        let vote = if row[rule] >= 0 then row[rule] else classes

                        if vote < outcomes then
                            let cells = counts[rule][c]
                            cells[vote] <- cells[vote] + q[c])
            votes
            posterior

        for cells in counts do
            cells |> Array.iter Simplex.normaliseInPlace

        Simplex.normalise prior, counts

    /// Fits by EM from the majority vote, so the same votes give the same model. Each abstention is one more outcome of
    /// its rule: a rule that votes for one class alone says something by its silence only. With `modelAbstentions` false
    /// abstentions carry no information, right for annotators who each label some rows at random. `known` gives the
    /// true class of rows where it is known and -1 elsewhere; null knows none. `smoothing` (above 0) rows are added to every outcome: a
    /// vote that was never seen stays possible. It ends when an iteration gains less than `tolerance` a row, or after
    /// `iterations` (see `Converged`). ArgumentException for rows of different lengths, a vote or known label that is
    /// neither -1 nor a class, or options out of range.
    static member Fit
        (
            votes: int[][],
            classes: int,
            [<Optional; DefaultParameterValue(0.1)>] smoothing: float,
            [<Optional; DefaultParameterValue(true)>] modelAbstentions: bool,
            [<Optional; DefaultParameterValue(null: int[])>] known: int[],
            [<Optional; DefaultParameterValue(1000)>] iterations: int,
            [<Optional; DefaultParameterValue(1e-9)>] tolerance: float
        ) : DawidSkeneModel =
        Check.votes (nameof votes) classes votes |> ignore

        Check.that (nameof smoothing) (smoothing > 0.0 && Double.IsFinite smoothing) (fun () ->
            $"{smoothing} is not above 0")

        Check.that (nameof iterations) (iterations > 0) (fun () -> $"{iterations} iterations")
        Check.least (nameof tolerance) 0.0 tolerance
        let known = if isNull known then Array.create votes.Length -1 else known
        Check.known (nameof known) classes votes.Length known
        let outcomes = if modelAbstentions then classes + 1 else classes

        let pinned posterior =
            Array.map2
                (fun label (q: float[]) ->
                    if label < 0 then
                        q
                    else
                        Array.init classes (fun c -> if c = label then 1.0 else 0.0))
                known
                posterior

        let rec improve iteration posterior objective =
            let prior, confusion =
                DawidSkene.Maximise(votes, posterior, classes, outcomes, smoothing)

            let fitted posterior converged history =
                DawidSkeneModel(
                    prior,
                    confusion,
                    modelAbstentions,
                    posterior,
                    Array.ofList (List.rev history),
                    converged
                )

            let scores = Array.map (fitted posterior false []).Score votes

            let evidence =
                Array.map2 (fun label (s: float[]) -> if label < 0 then Simplex.logSumExp s else s[label]) known scores
                |> Array.sum

            let priors =
                smoothing
                * (Array.sumBy log prior
                   + (confusion |> Array.sumBy (Array.sumBy (Array.sumBy log))))

            let value = evidence + priors
            let next = scores |> Array.map Simplex.softmax |> pinned

            match objective with
            | before :: _ when value - before < tolerance * float votes.Length -> fitted next true (value :: objective)
            | _ when iteration = iterations -> fitted next false (value :: objective)
            | _ -> improve (iteration + 1) next (value :: objective)

        improve 1 (pinned (MajorityVote.Probabilities(votes, classes))) []
