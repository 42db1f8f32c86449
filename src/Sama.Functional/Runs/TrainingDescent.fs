namespace Sama

/// How λ is brought down by whole trainings.
[<NoComparison>]
type DescentOptions =
    {
        /// metagradients at most
        Metagradients: int
        /// length of the first step of λ; where steps go on to be good, later ones are up to twice as long each
        Radius: float
        /// ends where the next step promises less than this part of the loss, and steps of the radius and a quarter of it
        /// along the slope, either way, do not bring more than that
        Tolerance: float
        /// of each metagradient
        Metagradient: MetagradientOptions
    }

    /// 12 metagradients, 1 (of a log rate: a factor of e), 1e-3.
    static member Default =
        { Metagradients = 12
          Radius = 1.0
          Tolerance = 1e-3
          Metagradient = MetagradientOptions.Default }

/// λ as whole trainings brought it down. The owner disposes it.
[<ReferenceEquality>]
type DescentResult =
    {
        /// of all that were tried, that of the least loss
        Lambda: TorchSharp.torch.Tensor
        /// L_meta(θ_T, λ)
        Loss: float
        /// the losses on the way, that of the start first; infinite for a training that was not finite
        Losses: System.Collections.Generic.IReadOnlyList<float>
        /// trainings that were done for their loss alone
        Trainings: int
        /// metagradients: each is a training and its reversal
        Metagradients: int
        /// false where it ended by the number of metagradients
        Converged: bool
    }

    /// Frees λ.
    member result.Dispose() : unit = result.Lambda.Dispose()

    interface System.IDisposable with
        member result.Dispose() = result.Dispose()

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Descent of a function that costs a training a value and several a slope, and that may be chaos far from its minimum: quasi-Newton
/// steps (L-BFGS) of bounded length, taken where the value falls. Where it does not, the slope may be that of a chaotic
/// training: the opposite step is tried, then shorter ones.
module internal TrainingDescent =

    /// A place, its value and slope.
    [<NoComparison; NoEquality>]
    type private Point =
        { At: Tensor
          Value: float
          Slope: Tensor }

    let private dot (a: Tensor) (b: Tensor) = Number.read ((a * b).sum ())

    /// H h by the pairs (s, y), the newest first: Nocedal's two loops.
    let private curved (pairs: (Tensor * Tensor) list) (h: Tensor) : Tensor =
        let q, taken =
            ((h, []), pairs)
            ||> List.fold (fun (q, taken) (s, y) ->
                let alpha = dot s q / dot s y
                q - y * alpha, alpha :: taken)

        let s, y = pairs.Head
        let start = q * (dot s y / dot y y)

        (start, List.zip (List.rev pairs) taken)
        ||> List.fold (fun r ((s, y), alpha) -> r + s * (alpha - dot y r / dot s y))

    let private bounded (radius: float) (d: Tensor) =
        let size = Method.size d
        if size > radius then d * (radius / size) else d

    /// Against a slope, of that length; the squares of a diverged training's leave the range.
    let private against (slope: Tensor) (length: float) : Tensor =
        let d = slope / slope.abs().max ()
        d * (-length / Method.size d)

    /// The step to take from a point.
    let private step pairs radius (p: Point) : Tensor =
        let steepest = against p.Slope radius

        if List.isEmpty pairs then
            steepest
        else
            let d = (curved pairs p.Slope).neg ()
            if dot d p.Slope < 0.0 then bounded radius d else steepest

    /// The first of d, −d, d/4, −d/4, … at which the value falls; of the first two the better one where `both`.
    let private lower (value: Tensor -> float) both least (p: Point) (d: Tensor) : (Tensor * float) option =
        let tried (d: Tensor) = d, value (p.At + d)

        let rec search (d: Tensor) =
            if Method.size d < least then
                None
            else
                let forward = tried d

                if snd forward < p.Value && not both then
                    Some forward
                else
                    let best = List.minBy snd [ forward; tried (d.neg ()) ]
                    if snd best < p.Value then Some best else search (d * 0.25)

        search d

    /// A place with a slope: the start, or behind steps against the slope of what is finite of its training.
    let rec private enter radius value slope partial told count (at: Tensor) : Point =
        let found: float = value at
        told found

        match (if Double.IsFinite found then slope at else None) with
        | Some h -> { At = at; Value = found; Slope = h }
        | None when count = 10 ->
            invalidOp "no training near λ is finite with its derivative: start where the training does not diverge"
        | None -> enter radius value slope partial told (count + 1) (at + against (partial at) radius)

    /// From `start`: `value` is infinite where the training is not finite, `slope` is none where it is not, and `partial` is that
    /// of the part of a training that is. `told` sees the losses. λ, its loss, whether it converged; in the caller's scope.
    let minimise (o: DescentOptions) value slope partial (told: float -> unit) (start: Tensor) : Tensor * float * bool =
        let least = o.Radius / 64.0

        let rec go count radius pairs (p: Point) =
            if Method.size p.Slope = 0.0 then
                p, true
            elif count = o.Metagradients then
                p, false
            else
                let d = step pairs radius p

                let promises =
                    List.isEmpty pairs || -(dot d p.Slope) / 2.0 >= o.Tolerance * abs p.Value

                // a start may be anywhere
                let found = if promises then lower value (count = 1) least p d else None

                // a plateau promises nothing either, nor does a curvature from elsewhere: a minimum is one beside its surroundings
                let looks = found.IsNone && not (List.isEmpty pairs)

                let found =
                    if looks then
                        lower value true (o.Radius / 8.0) p (against p.Slope o.Radius)
                    else
                        found

                match found with
                | None -> p, true
                | Some(d, found) when looks && p.Value - found < o.Tolerance * abs p.Value ->
                    told found
                    { p with At = p.At + d; Value = found }, true
                | Some(d, found) ->
                    told found
                    let at, size = p.At + d, Method.size d
                    let longer = if size > 0.9 * radius then 2.0 * radius else max size least

                    match slope at with
                    | None ->
                        let next = { p with At = at; Value = found }

                        go (count + 1) longer [] next
                    | Some h ->
                        // the curvature of where a training diverges is none of where it does not
                        let pairs =
                            if dot d (h - p.Slope) > 0.0 && p.Value - found < 10.0 * abs found then
                                (d, h - p.Slope) :: (if looks then [] else List.truncate 7 pairs)
                            else
                                []

                        go (count + 1) longer pairs { At = at; Value = found; Slope = h }

        let p, converged =
            go 1 o.Radius [] (enter o.Radius value slope partial told 0 start)

        p.At, p.Value, converged
