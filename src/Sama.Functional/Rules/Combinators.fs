namespace Sama.Functional

open System
open TorchSharp
open Sama
open Sama.Functional.Real

/// u = a·g + w·θ, its ∂u/∂g = a.
[<Struct; NoComparison; NoEquality>]
type internal LinearFormula =
    { Factor: float
      Decay: Coefficient }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, a: 'V, b: 'V, rest: 'V) : FormulaStep<'V> =
            let u = g .* k f.Factor

            { U = if f.Decay.IsOff then u else u .+ theta .* c f.Decay
              A = a
              B = b
              C = rest }

        member f.Slope<'V when 'V :> IReal<'V>>(_: 'V, _: 'V, _: 'V, _: 'V, _: 'V) : 'V = k f.Factor

/// u = r·clamp(g, −c, c); its ∂u/∂g is 0 where g is clipped.
[<Struct; NoComparison; NoEquality>]
type internal ClampFormula =
    { Rate: float
      Limit: Coefficient }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, _: 'V, a: 'V, b: 'V, rest: 'V) : FormulaStep<'V> =
            let clipped = ifPositive (magnitude g .- c f.Limit) (sign g .* c f.Limit) g

            { U = clipped .* k f.Rate
              A = a
              B = b
              C = rest }

        member f.Slope<'V when 'V :> IReal<'V>>(g: 'V, _: 'V, _: 'V, _: 'V, _: 'V) : 'V =
            ifPositive (magnitude g .- c f.Limit) (k 0.0) (k f.Rate)

/// Rules that stand before or behind others in a chain, or around them.
[<AutoOpen>]
module Combinators =

    /// u = factor·g + decay·θ, decay a product of options.
    let private linear name factor (options: Learnable list) =
        let decay (given: Given) (rate: float) =
            options
            |> List.fold
                (fun product option -> product .* given[option.Name])
                (Coefficient.Of(if options.IsEmpty then 0.0 else rate))

        let at given (rate: float) _ _ =
            Kernel.ofFormula
                { Factor = rate * factor
                  Decay = decay given rate }

        Elementwise.rule
            { Elementwise.stateless name at with
                Options = options
                ReadsTheta = fun given -> not (decay given 1.0).IsOff
                Decoupled = fun given rate _ -> decay given rate }

    /// u = g + wθ before a rule: coupled (L2) decay, which the rule's moments see.
    /// ArgumentException if the decay is negative or not finite.
    let addDecay (weightDecay: float) : UpdateRule =
        Options.requireNonNegative (nameof weightDecay) weightDecay
        linear "addDecay" 1.0 [ Learnable.nonNegative (nameof weightDecay) weightDecay ]

    let rec private behind rule decay =
        { UpdateRule.chain [ rule; decay ] with
            Learn = decay.Learn >> behind rule }

    /// u = rule + rate·w·θ: decay beside a rule, in which its moments have no part (AdamW is Adam with it). A schedule
    /// on the result multiplies both. ArgumentException for a negative or not finite number.
    let decoupledDecay (rate: float) (weightDecay: float) (rule: UpdateRule) : UpdateRule =
        Options.requireNonNegative (nameof rate) rate
        Options.requireNonNegative (nameof weightDecay) weightDecay

        linear
            "decoupledDecay"
            1.0
            [ Learnable.nonNegative (nameof rate) rate
              Learnable.nonNegative (nameof weightDecay) weightDecay ]
        |> behind rule

    /// The rule that climbs: it sees −g.
    let maximise (rule: UpdateRule) : UpdateRule =
        UpdateRule.chain [ linear "maximise" -1.0 []; rule ]

    /// u = g, each coordinate clipped to [−c, c]; ∂u/∂g is 0 where it is clipped. ArgumentException unless c is positive.
    let clipByValue (limit: float) : UpdateRule =
        Options.requirePositive (nameof limit) limit

        let at (given: Given) rate _ _ =
            Kernel.ofFormula
                { Rate = rate
                  Limit = given[nameof limit] }

        Elementwise.rule
            { Elementwise.stateless "clipByValue" at with
                Options = [ Learnable.positive (nameof limit) limit ] }

    /// u = g·min(1, c/(‖g‖ + e)), the norm over all coordinates and in float64. With N = ‖g‖, N + e > c:
    /// (∂u/∂g)ᵀ w = c/(N+e)·[w − g (g·w)/(N(N+e))]. PyTorch's e is 1e-6, Optax has none. ArgumentException unless the
    /// limit is positive and the slack at least 0.
    let clipByGlobalNormWith (slack: float) (limit: float) : UpdateRule =
        Options.requirePositive (nameof limit) limit
        Options.requireNonNegative (nameof slack) slack
        // products too: the squares of float32 leave its range from 1e19 and 1e-23 on
        let dot (x: Tensor) (y: Tensor) =
            (x.to_type torch.float64 * y.to_type torch.float64).sum ()

        let measure (given: Given) (g: Tensor) =
            let n = (Number.floor (dot g g)).sqrt ()
            let length = given[nameof slack].Plus n
            n, length, given[nameof limit].Times(torch.ones_like n) / length

        let step given state (g: Tensor) _ =
            let _, _, factor = measure given g
            g * factor.clamp_max(Number.scalar 1.0).to_type g.dtype, RuleState.counted state

        let adapt given (_: RuleState) (g: Tensor) (_: Tensor) (w: Tensor) =
            let n, length, factor = measure given g
            // g/n is a unit vector, where g·w alone may leave the range
            let unit = (g.to_type torch.float64 / n).to_type g.dtype
            let along = dot unit w * n / length
            let inside = (w - unit * along.to_type g.dtype) * factor.to_type g.dtype
            torch.where (factor.lt (Number.scalar 1.0), inside, w)

        let bind given (rate: int64 -> float) (_: Layout) =
            let _, byTheta = BoundRule.differentiated (step given)

            // its Jacobian is symmetric
            BoundRule.create
                "clipByGlobalNorm"
                (fun _ -> RuleState.empty)
                (step given)
                (Ok(BoundRule.diagonal (adapt given)))
                byTheta
                false
            |> UpdateRule.scaledOutput rate
            // the norm is that of a gradient that every rank has
            |> BoundRule.stateless

        Learnable.rule
            "clipByGlobalNorm"
            [ Learnable.positive (nameof limit) limit
              Learnable.nonNegative (nameof slack) slack ]
            false
            bind

    /// `clipByGlobalNormWith 1e-6`, as torch.nn.utils.clip_grad_norm_.
    let clipByGlobalNorm (limit: float) : UpdateRule = clipByGlobalNormWith 1e-6 limit

    /// The rule, with the parameters of these names left where they are. ArgumentException, when a level is made, for a
    /// name that it does not have.
    let freeze (names: string list) (rule: UpdateRule) : UpdateRule =
        let still =
            UpdateRule.create "frozen" (fun _ -> RuleState.empty) (fun state g _ ->
                torch.zeros_like g, RuleState.counted state)
            |> UpdateRule.elementwise

        let parted =
            UpdateRule.groups [ (fun name -> List.contains name names), still; (fun _ -> true), rule ]

        { parted with
            Bind =
                fun layout ->
                    for name in names do
                        layout.IndexOf name |> ignore

                    parted.Bind layout }

    /// Parameter groups by names: each parameter follows the rule of the first list that holds its name.
    /// ArgumentException, when a level is made, for a name that it does not have and a parameter in no group.
    let groupsByName (groups: (string list * UpdateRule) list) : UpdateRule =
        let parted =
            UpdateRule.groups [ for names, rule in groups -> (fun name -> List.contains name names), rule ]

        { parted with
            Bind =
                fun layout ->
                    for name in List.collect fst groups do
                        layout.IndexOf name |> ignore

                    parted.Bind layout }
