namespace Sama

open System
open Sama.Functional
open Sama.DataOptimization

/// A program whose ranks share its work; without a launcher there is one, alone.
module OnRanks =

    let private watching (line: LiveLine) : IProgress<StageProgress> =
        { new IProgress<StageProgress> with
            member _.Report at =
                line.At(at.Share, $"{at.Stage}, loss {at.Loss:F3}") }

    /// What `work` makes of the ranks and of whom to tell of progress; rank 0 tells the result, once the line of progress has
    /// gone away.
    let run (work: Communicator -> IProgress<StageProgress> -> 'result) (told: 'result -> unit) : unit =
        use ranks = Ranks.start RankOptions.Default

        if ranks.Rank = 0 then
            let result =
                use line = new LiveLine "reading"
                work ranks (watching line)

            told result
        else
            work ranks null |> ignore
