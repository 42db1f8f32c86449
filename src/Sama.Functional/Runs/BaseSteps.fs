namespace Sama.Functional

open TorchSharp
open Sama

/// Steps of the lowest levels: their gradients, looked at and not yet written.
module internal BaseSteps =

    /// The gradient of level i at its batches, into its gradient vector; and by λ where its method asks for it.
    let private pass (live: LiveStep) i (micros: Micro list) : Tensor * float ref =
        let run = live.Levels[i]
        let gradients = Array.create live.Vectors.Length null
        gradients[i] <- run.Gradient.zero_ ()

        let upper =
            if
                List.contains BaseLambdaGradient (Structure.methodOf live.Problem i).Needs
                && Structure.due live.Problem 1 live.Number
            then
                Structure.above live.Problem i
            else
                []

        for j in upper do
            gradients[j] <- torch.zeros_like live.Vectors[j]

        use buckets = Across.gradient live.Problem i run.Gradient

        let losses =
            Passes.losses
                (if isNull buckets then [] else [ i, buckets ])
                live.Problem
                (Problem.precision live.Problem)
                live.Vectors
                gradients
                micros
                (fun micro ->
                    micro.Loss Mode.Base
                    >> Autodiff.requireGraph $"level '{live.Problem.Levels[i].Name}': its loss")

        Across.finish live.Problem buckets

        let loss =
            [| for loss in losses -> loss.to_type torch.float64 |]
            |> torch.stack
            |> _.mean()
            |> Checks.loss live.Readings live.Number run.Level

        live.Sound i

        (if upper.IsEmpty then
             null
         else
             Passes.joined [| for j in upper -> gradients[j] |]),
        loss

    /// The steps of these levels, with their windows if a method is to look back, and their losses.
    let take (live: LiveStep) (working: int list) (looksBack: bool) : LevelStep option[] * float ref list =
        let taken: LevelStep option[] = Array.create live.Vectors.Length None

        let losses =
            [ for i in working do
                  let micros, run = live.Fetch i, live.Levels[i]
                  let lambdaGradient, loss = pass live i micros

                  let window =
                      if looksBack && not (isNull run.Window) then
                          // the batches stay the step's
                          run.Window.With(live.Number, micros)
                      else
                          null

                  taken[i] <- Some(run.Step(micros, lambdaGradient, window))
                  loss ]

        taken, losses

    /// A step taken again on the same batch must have the same gradient.
    let replay (live: LiveStep) (working: int list) : unit =
        for i in working do
            let run = live.Levels[i]

            // the gradient of a step on ranks is not this rank's
            let gradient = if Across.alone live.Problem then run.Gradient else null
            Checks.replay live.Problem i live.Vectors gradient (run.Scratch()) (live.Fetch i)
