namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices

/// The class that most rules vote for. Votes are rows of one class a rule, -1 where the rule abstains.
[<AbstractClass; Sealed>]
type MajorityVote =

    /// Share of each class among a row's votes, [row][class]; uniform where every rule abstains. ArgumentException for
    /// rows of different lengths or a vote that is neither -1 nor a class.
    static member Probabilities(votes: int[][], classes: int) : float[][] =
        Check.votes (nameof votes) classes votes |> ignore

        votes
        |> Array.map (fun row ->
            let counts = Array.zeroCreate<float> classes

            for vote in row do
                if vote >= 0 then
                    counts[vote] <- counts[vote] + 1.0

            if Array.sum counts > 0.0 then
                Simplex.normalise counts
            else
                Array.create classes (1.0 / float classes))

    /// The class with most votes of each row, equal counts drawn by the seed; -1 where every rule abstains.
    /// ArgumentException as for `Probabilities`.
    static member Labels(votes: int[][], classes: int, [<Optional; DefaultParameterValue(0)>] seed: int) : int[] =
        let random = Seeded.random seed 0

        Array.map2
            (fun row (shares: float[]) ->
                if Array.forall (fun vote -> vote < 0) row then
                    -1
                else
                    let most = Array.max shares

                    let tied =
                        [| for c in 0 .. classes - 1 do
                               if shares[c] = most then
                                   c |]

                    tied[random.Next tied.Length])
            votes
            (MajorityVote.Probabilities(votes, classes))
