namespace Sama

/// Options of LAMB, with Optax's names and defaults.
[<NoComparison>]
type LambOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// decay of the first moment, in [0, 1)
        Beta1: float
        /// decay of the second moment, in [0, 1)
        Beta2: float
        /// ε, at least 0
        Epsilon: float
        /// joins Adam's direction before the trust ratio
        WeightDecay: float
    }

    /// Rate 1e-3, β 0.9 and 0.999, ε 1e-6, no decay.
    static member Default =
        { LearningRate = 1e-3
          Beta1 = 0.9
          Beta2 = 0.999
          Epsilon = 1e-6
          WeightDecay = 0.0 }

namespace Sama.Functional

open TorchSharp
open Sama

/// LAMB (You et al., 2020).
[<AutoOpen>]
module LambRule =

    /// By parameter u = r‖θ‖/‖r‖, r if a norm is 0; (∂u/∂r)ᵀ v = ‖θ‖/‖r‖·(v − r(r·v)/‖r‖²), 0 for a parameter of one
    /// element, whose length θ fixes. Norms in float64. Not elementwise.
    let trustRatio: UpdateRule =
        // products too: the squares of float32 leave its range from 1e19 and 1e-23 on
        let dot (x: Tensor) (y: Tensor) =
            (x.to_type torch.float64 * y.to_type torch.float64).sum ()

        let square x = dot x x

        let ratio (r: Tensor) (theta: Tensor) : Tensor * Tensor =
            let rr, tt = square r, square theta
            let positive (x: Tensor) = x.gt (Number.scalar 0.0)
            let usable = (positive rr).logical_and (positive tt)
            let ratio = (Number.floor tt / Number.floor rr).sqrt ()
            let ratio = torch.where (usable, ratio, torch.ones_like ratio)
            usable, ratio.to_type r.dtype

        let step layout state r theta =
            let scaled (_: Slice) (at: Tensor[]) =
                let r, theta = at[0], at[1]
                r * snd (ratio r theta)

            Slices.each layout scaled [ r; theta ], RuleState.counted state

        let turned (slice: Slice) (at: Tensor[]) =
            let r, theta, v = at[0], at[1], at[2]
            let usable, ratio = ratio r theta

            let unit =
                (r.to_type torch.float64 / (Number.floor (square r)).sqrt ()).to_type r.dtype

            let across =
                if slice.Length = 1L then
                    torch.zeros_like v
                else
                    v - unit * (dot unit v).to_type r.dtype

            torch.where (usable, across, v) * ratio

        let on layout =
            let adapt (_: RuleState) r theta v =
                Slices.each layout turned [ r; theta; v ]

            // by parameter ‖θ‖/‖r‖·(I − r rᵀ/‖r‖²), a symmetric matrix
            BoundRule.create
                "trustRatio"
                (fun _ -> RuleState.empty)
                (step layout)
                (Ok(BoundRule.diagonal adapt))
                (snd (BoundRule.differentiated (step layout)))
                false
            |> BoundRule.stateless

        UpdateRule.ofBind "trustRatio" on

    /// r = Adam's direction + weightDecay·θ, by parameter u = lr r‖θ‖/‖r‖: AdamW of rate 1, then the trust ratio.
    /// State: Adam's, in the first part. ArgumentException names an option out of range.
    let lambWith (o: LambOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate

        let direction =
            adamWith
                { AdamOptions.Default with
                    LearningRate = 1.0
                    Beta1 = o.Beta1
                    Beta2 = o.Beta2
                    Epsilon = o.Epsilon
                    WeightDecay = o.WeightDecay
                    DecoupledDecay = true }

        let rec lamb (direction: UpdateRule) (rate: UpdateRule) : UpdateRule =
            let whole = UpdateRule.chain [ direction; trustRatio; rate ]

            let learn (wanted: Learned) =
                if wanted.Option.ToLowerInvariant() = "learningrate" then
                    lamb direction (rate.Learn wanted)
                else
                    lamb (direction.Learn wanted) rate

            let learns (rule: UpdateRule) = rule.Name.EndsWith "learned)"

            { whole with
                Name =
                    if learns direction || learns rate then
                        $"lamb: {whole.Name}"
                    else
                        "lamb"
                Learn = learn }

        lamb direction (sgd o.LearningRate)

    /// LAMB with that rate.
    let lamb (learningRate: float) : UpdateRule =
        lambWith
            { LambOptions.Default with
                LearningRate = learningRate }
