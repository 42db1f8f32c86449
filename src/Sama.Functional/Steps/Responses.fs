namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Best responses along the levels. With v = ∂L_j/∂θ of all levels: for i from the lowest to j − 1, the best-response vjp
/// of vᵢ by every level above i is added to theirs; what has arrived at j is h_j.
///
/// The lowest level's derivatives are those of its loss. A level between others has its total hypergradient for a
/// gradient. Held, its derivatives are those of its loss's gradient at fixed levels below. In total, its gradient at a
/// moved θᵢ is its total hypergradient there: the levels below take their last steps again (methods of one step) or
/// follow their tangents (methods that solve for θ*); SAMA takes its difference of that, at 2 calls more of all below,
/// methods that form products take a four-point difference of it, at 4 calls a product.
module internal Responses =

    /// The responses of the levels below i, from the lowest up, each to what has arrived at it, added to `gradients` of the
    /// levels up to `top`; partial derivatives become total ones.
    let rec addResponses (point: Point) (i: int) (top: int) (gradients: Tensor[]) : (int * Response) list =
        let problem = point.Problem

        [ for k in Structure.below problem i do
              match point.Taken[k] with
              | Some _ when not (isNull gradients[k]) ->
                  // by a lowest level nothing has been added to what Points.partials has reduced
                  if problem.Heights[k] > 0 then
                      Across.meta problem k gradients[k]

                  let response = respond point k top gradients[k]
                  let above = Points.upper problem k top

                  for j, part in Seq.zip above (Passes.parted problem above response.Vector) do
                      if not (isNull gradients[j]) then
                          gradients[j].add_ part |> ignore

                  k, response
              | _ -> () ]

    /// The best response of level k to the levels above it, up to `top`; overwrites v.
    and respond (point: Point) (k: int) (top: int) (v: Tensor) : Response =
        let passes = ref 0
        let disagreement = point.Disagreement |> Option.map (fun _ -> ref 0.0)

        let point =
            { point with
                Disagreement = disagreement }

        let response =
            (Structure.methodOf point.Problem k).BestResponse (solution passes point k top) v

        match Structure.productForm point.Problem k with
        | None -> response
        | Some form ->
            { response with
                Report =
                    lazy
                        (let report = response.Report.Value

                         { report with
                             ProductForm = Nullable form
                             Note =
                                 (match disagreement, report.Note with
                                  | Some found, null -> Products.note point.Problem.Levels[k] found.Value
                                  | _, own -> own)
                             Passes = report.Passes + passes.Value }) }

    /// Gradients of level i's own problem at a vector of its own and, where given, other vectors above it.
    and private gradientsAt
        (point: Point)
        i
        top
        (micros: Micro list)
        (theta: Tensor)
        (above: (int * Tensor) list)
        (wanted: int list)
        =
        let problem = point.Problem

        let before =
            point.Before
            |> Array.mapi (fun k own ->
                if k = i then
                    theta
                else
                    match List.tryFind (fun (j, _) -> j = k) above with
                    | Some(_, moved) -> moved
                    | None -> own)

        if problem.Heights[i] = 0 || problem.Levels[i].Response = MiddleResponse.Held then
            let gradients = Points.zeros point wanted
            let vectors = Points.seenBy { point with Before = before } i
            Passes.accumulate problem None micros Mode.Perturbed vectors gradients
            Across.own problem i wanted gradients
        else
            let moved = follow point i before
            let gradients = Points.zeros point (wanted @ Structure.below problem i)
            Points.partials moved None i Mode.Perturbed micros gradients |> ignore
            addResponses moved i top gradients |> ignore
            Across.own problem i wanted gradients

    /// The levels below i where they are when i and those above it are at `before`.
    and private follow (point: Point) i (before: Tensor[]) : Point =
        let problem = point.Problem

        let below =
            Structure.below problem i |> List.filter (fun k -> point.Taken[k].IsSome)

        let before = Array.copy before

        // along their tangents, from the highest down: a level follows those between, too
        for k in List.rev below do
            match (Structure.methodOf problem k).Motion with
            | AlongTangent solve ->
                let moves = [ for j in Structure.above problem k -> j, before[j] - point.Before[j] ]
                before[k] <- before[k] + tangent point k solve moves
            | Retaken
            | Unknown _ -> ()

        ({ point with Before = before }, below)
        ||> List.fold (fun moved k ->
            let step = point.Taken[k].Value
            let above = [ for j in Structure.above problem k -> j, before[j] ]
            let g = (gradientsAt moved k k step.Micros before[k] above [ k ])[k]
            let rule = LearnedOptions.rule problem k before
            let next = LevelStep.at rule before[k] step.State g step.Micros

            let after =
                match (Structure.methodOf problem k).Motion with
                | AlongTangent _ -> point.After k + (before[k] - point.Before[k])
                | Retaken
                | Unknown _ -> next.After()

            { moved with
                Taken = Array.updateAt k (Some { next with After = fun () -> after }) moved.Taken
                After = fun j -> if j = k then after else moved.After j })

    /// (dθₖ/dλ) d = −M⁻¹ [(∂g/∂λ) d + (∂u/∂λ|_g) d/D], M the symmetric form of an elementwise rule (`Method.diagonals`), by the solver of the
    /// adjoint system, which is its own transpose.
    and private tangent (point: Point) k (solve: AdjointSolver) (d: (int * Tensor) list) : Tensor =
        Scope.tensor (fun () ->
            let problem = point.Problem
            let top = Structure.above problem k |> List.last

            for micro in point.Taken[k].Value.Micros do
                if micro.Stops then
                    invalidOp
                        $"level '{problem.Levels[k].Name}' stops features (Pass.Stop), which its θ* follows: its derivative for the levels above is not known to {Structure.methodOf problem k}. Hold the levels between (Level.responding MiddleResponse.Held), or take a method of one step (sama, t1t2)"

            let at = solution (ref 0) point k top
            let linear = at.Linearize(at.ThetaBefore, false)

            let all =
                Passes.joined [| for j in Points.upper problem k top -> d |> List.find (fun (i, _) -> i = j) |> snd |]

            let moved = linear.LambdaJvp all

            if at.LearnsOptions then
                moved.add_ (Method.over at (at.OptionsJvp all)) |> ignore

            (solve at linear moved).P.neg_ ())

    /// First-order gradients of level i at its last step; λ is that of the levels above it, up to the tier of `top`.
    and private firstOrder (point: Point) i top : IBaseGradients =
        let step = point.Taken[i].Value
        let upper = Points.upper point.Problem i top
        let lambda = Passes.joined [| for j in upper -> point.Before[j] |]

        let ofTheta micros theta =
            PhaseClock.pass point.Clock (fun () ->
                Scope.tensor (fun () -> (gradientsAt point i top micros theta [] [ i ])[i]))

        let ofLambda micros theta =
            PhaseClock.pass point.Clock (fun () ->
                Scope.tensor (fun () ->
                    let gradients = gradientsAt point i top micros theta [] upper
                    Passes.joined [| for j in upper -> gradients[j] |]))

        { new IBaseGradients with
            member _.Theta = step.After()
            member _.ThetaBefore = step.Theta
            member _.Lambda = lambda
            member _.Gradient = step.Gradient

            member _.SquaredGradient() =
                Scope.tensor (fun () ->
                    match step.Micros with
                    | [ _ ] -> step.Gradient.square ()
                    | micros ->
                        let squares = [ for micro in micros -> (ofTheta [ micro ] step.Theta).square () ]
                        (List.reduce (+) squares) / Number.scalar (float micros.Length))

            member _.Perturbed(centre, scale, v) =
                let from =
                    if centre = Centre.PreUpdate then
                        step.Theta
                    else
                        step.After()

                let scratch = step.Scratch()
                Flat.combine scratch from scale v
                scratch

            member _.ThetaGradient theta = ofTheta step.Micros theta

            member _.LambdaGradient theta =
                if obj.ReferenceEquals(theta, step.Theta) && not (isNull step.LambdaGradient) then
                    step.LambdaGradient.alias ()
                else
                    ofLambda step.Micros theta

            member _.LambdaGradient(theta, count) =
                ofLambda (List.take count step.Micros) theta }

    /// A level at its last step, as methods see it.
    and solution (passes: int ref) (point: Point) (i: int) (top: int) : IBaseSolution =
        let problem = point.Problem
        let step = point.Taken[i].Value
        let gradients = firstOrder point i top

        let subject: Linearization.Subject =
            { Problem = problem
              Index = i
              Upper = Points.upper problem i top
              Vectors = Points.seenBy point i
              Precision = None
              Disagreement = point.Disagreement }

        let products =
            { new IBaseProducts with
                member _.Linearize(theta, followStops) =
                    let known = obj.ReferenceEquals(theta, step.Theta)

                    // methods count the pass of a graph, which differences do without
                    if known && Structure.productForm problem i = Some ProductForm.Differences then
                        passes.Value <- passes.Value - 1

                    if problem.Heights[i] > 0 && problem.Levels[i].Response = MiddleResponse.Total then
                        differences passes point i top theta gradients.Lambda
                    else
                        let from =
                            if known && not followStops then
                                Some(Differenced.replaying step.Gradient)
                            else
                                None

                        let lend =
                            if known then
                                step.Scratch
                            else
                                fun () -> torch.empty_like theta

                        Products.at passes subject step.Micros (Mode.Linearized followStops) lend from theta
                        |> snd }

        let trajectory = Trajectory.ofWindow passes subject step.Scratch step.Window

        let rule =
            LevelStep.jacobians gradients.Lambda (Points.options point i subject.Upper) step

        let memory = LevelStep.memory step

        if isNull point.Clock then
            LevelSolution(rule, gradients, products, trajectory, memory)
        else
            LevelSolution(
                Watched.rule point.Clock rule,
                gradients,
                Watched.products point.Clock passes products,
                Watched.trajectory point.Clock passes trajectory,
                memory
            )

    /// Products with the derivatives of a middle level's total hypergradient; ∂h/∂θ is the Hessian of the reduced loss,
    /// symmetric where the responses below are exact.
    and private differences (passes: int ref) (point: Point) i top (theta: Tensor) (lambda: Tensor) : ILinearization =
        let upper = Points.upper point.Problem i top
        let micros = point.Taken[i].Value.Micros

        let own theta =
            (gradientsAt point i top micros theta [] [ i ])[i]

        let ofLambda theta =
            let gradients = gradientsAt point i top micros theta [] upper
            Passes.joined [| for j in upper -> gradients[j] |]

        let ownAt lambda =
            let above = List.zip upper (List.ofArray (Passes.parted point.Problem upper lambda))
            (gradientsAt point i top micros theta above [ i ])[i]

        let both theta =
            let gradients = gradientsAt point i top micros theta [] (i :: upper)
            torch.cat [| gradients[i]; yield! [ for j in upper -> gradients[j] ] |]

        Differences.linearization passes point.Disagreement theta lambda own ofLambda both ownAt
