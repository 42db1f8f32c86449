namespace Sama.Functional

open TorchSharp
open Sama

/// Steps of the lowest levels: their gradients, looked at and not yet written.
module internal BaseSteps =

    /// The last micro-batch's pass completes the gradient: `watch` looks at it.
    let private losses (live: LiveStep) i (micros: Micro list) gradients (watch: Params[] -> Params[]) =
        let share = 1.0 / float micros.Length

        [ for at, micro in List.indexed micros ->
              // the graph dies here, before anything else needs memory
              Scope.tensor (fun () ->
                  let loss =
                      Passes.gradient
                          live.Problem
                          (Problem.precision live.Problem)
                          live.Vectors
                          gradients
                          share
                          ((if at = micros.Length - 1 then watch else id)
                           >> micro.Loss Mode.Base
                           >> Autodiff.requireGraph $"level '{live.Problem.Levels[i].Name}': its loss")

                  loss.to_type torch.float64) ]

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

        let watch (parameters: Params[]) =
            if isNull buckets then
                parameters
            else
                Array.updateAt i (buckets.Watch parameters[i]) parameters

        let losses = losses live i micros gradients watch
        Across.finish live.Problem buckets

        let loss =
            Checks.loss live.Readings live.Number run.Level ((torch.stack (List.toArray losses)).mean ())

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
