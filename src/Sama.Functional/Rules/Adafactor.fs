namespace Sama

open System

/// Options of Adafactor, with PyTorch's names and defaults.
[<NoComparison>]
type AdafactorOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// ρ = t^this: the share of the new square
        Beta2Decay: float
        /// V ≥ ε₁²; null: the machine epsilon of the parameters' type
        Epsilon1: Nullable<float>
        /// least root mean square that a parameter is taken to have
        Epsilon2: float
        /// root mean square above which an update is clipped
        ClippingThreshold: float
        /// decoupled: lr·weightDecay·θ
        WeightDecay: float
        /// ascends instead
        Maximize: bool
    }

    /// Rate 1e-2, ρ = t^−0.8, ε₂ 1e-3, threshold 1, no decay.
    static member Default =
        { LearningRate = 1e-2
          Beta2Decay = -0.8
          Epsilon1 = Nullable()
          Epsilon2 = 1e-3
          ClippingThreshold = 1.0
          WeightDecay = 0.0
          Maximize = false }

namespace Sama.Functional

open System
open TorchSharp
open Sama
open Sama.Functional.Real

/// Adafactor (Shazeer and Stern, 2018; torch.optim.Adafactor).
[<AutoOpen>]
module AdafactorRule =

    let private matrix (slice: Slice) = slice.Shape.Length > 1

    let private rows (slice: Slice) = "row_var/" + slice.Name
    let private columns (slice: Slice) = "col_var/" + slice.Name
    let private whole (slice: Slice) = "variance/" + slice.Name

    let private lesser (a: Coefficient) (b: float) : Coefficient =
        if a.Value <= b then a else Coefficient.Of b

    let private sum (dim: int64) (x: Tensor) = x.sum (dim, keepdim = true)

    // of nothing it is 0
    let private mean (dim: int64) (x: Tensor) =
        if x.numel () = 0L then
            sum dim x
        else
            x.mean ([| dim |], keepdim = true)

    let private rms (x: Tensor) =
        // the squares of float32 leave its range from 1e19 and 1e-23 on
        let x = x.to_type torch.float64
        let square = x * x
        (Number.floor (if x.numel () = 0L then square.sum () else square.mean ())).sqrt ()

    /// One parameter at one step: its second moments, the unclipped direction and how far it is scaled.
    [<NoComparison; NoEquality>]
    type private Factored =
        {
            Moments: (string * Tensor) list
            /// V, not yet kept from 0
            Variance: Tensor
            /// V ≥ ε₁²
            Root: Tensor
            /// w = g/√V
            Direction: Tensor
            /// rms(w)/d
            Excess: Tensor
            /// u = α w/max(1, rms(w)/d)
            Alpha: Tensor
        }

    let private at
        (given: Given)
        (rate: float)
        (epsilon: Coefficient)
        (t: int64)
        (state: RuleState)
        (slice: Slice)
        (g: Tensor)
        (theta: Tensor)
        =
        let share = Coefficient.Of(float t).Power given["Beta2Decay"]

        let average name (now: Tensor) =
            (k 1.0 .- share).Times state[name] + share.Times now

        let square = g * g

        let moments, variance =
            if matrix slice then
                let r, c =
                    average (rows slice) (mean -1L square), average (columns slice) (mean -2L square)

                let level = epsilon.AtLeast(mean -2L r)
                [ rows slice, r; columns slice, c ], r * c / level
            else
                let v = average (whole slice) square
                [ whole slice, v ], v

        let root = ((epsilon .* epsilon).AtLeast variance).sqrt ()
        let w = g / root
        let size = given["Epsilon2"].AtLeast(rms theta)

        { Moments = moments
          Variance = variance
          Root = root
          Direction = w
          Excess = given["ClippingThreshold"].Under(rms w)
          Alpha = (lesser (k rate .* given["LearningRate"]) (float t ** -0.5)).Times size }

    let private clipped (x: Tensor) (f: Factored) =
        x * (f.Alpha / f.Excess.clamp_min (Number.scalar 1.0)).to_type x.dtype

    /// (∂u/∂g)ᵀ v of one parameter; formulas at `adafactorWith`.
    let private turned
        (epsilon: Coefficient)
        (share: Coefficient)
        (state: RuleState)
        (slice: Slice)
        (f: Factored)
        (g: Tensor)
        (v: Tensor)
        =
        let w = f.Direction

        let dot (x: Tensor) (y: Tensor) =
            (x.to_type torch.float64 * y.to_type torch.float64).sum ()

        let along = (dot w v / Number.floor (dot w w)).to_type w.dtype
        let z = clipped (torch.where (f.Excess.gt (Number.scalar 1.0), v - w * along, v)) f
        let divides = f.Variance.ge (Number.scalar (epsilon .* epsilon).Value)
        let nothing = torch.zeros_like v

        let adapted =
            if matrix slice then
                let p = torch.where (divides, z * w, nothing)
                let r, c = snd f.Moments[0], snd f.Moments[1]
                let m = mean -2L r

                let n, k =
                    float slice.Shape[slice.Shape.Length - 1], float slice.Shape[slice.Shape.Length - 2]

                let byRow = sum -1L p / (Number.floor r * n)
                let byColumn = sum -2L p / (Number.floor c * k)
                let byLevel = sum -1L (sum -2L p) / (Number.floor m * (n * k))

                let byLevel =
                    torch.where (m.gt (Number.scalar epsilon.Value), byLevel, torch.zeros_like byLevel)

                z / f.Root - share.Times(g * (byRow + byColumn - byLevel))
            else
                let before: Tensor = state[whole slice]
                let kept = (k 1.0 .- share).Times before / Number.floor f.Variance / f.Root
                torch.where (divides, z * kept, z / f.Root)

        torch.where (f.Variance.gt (Number.scalar 0.0), adapted, nothing)

    let private start (layout: Layout) (theta: Tensor) : RuleState =
        let zeros (shape: int64[]) =
            torch.zeros (shape, dtype = theta.dtype, device = theta.device)

        let own (slice: Slice) =
            if matrix slice then
                let last = slice.Shape.Length - 1
                let collapsed dim = Array.updateAt dim 1L slice.Shape

                [ rows slice, zeros (collapsed last)
                  columns slice, zeros (collapsed (last - 1)) ]
            else
                [ whole slice, zeros slice.Shape ]

        RuleState.create 0L (Seq.collect own layout.Slices) []

    let private bind (o: AdafactorOptions) (given: Given) (rate: int64 -> float) (layout: Layout) : BoundRule =
        let sign = if o.Maximize then -1.0 else 1.0

        let epsilon (x: Tensor) =
            if o.Epsilon1.HasValue then
                given["Epsilon1"]
            else
                Coefficient.Of(torch.finfo(x.dtype).eps)

        let factored (state: RuleState) (g: Tensor) slice gradient theta =
            at given (rate state.Count) (epsilon g) (state.Count + 1L) state slice gradient theta

        let step (state: RuleState) (g: Tensor) (theta: Tensor) =
            let moments = ResizeArray()

            let update slice (views: Tensor[]) =
                let f = factored state g slice (views[0] * sign) views[1]
                moments.AddRange f.Moments
                let u = clipped f.Direction f

                if given["WeightDecay"].IsOff then
                    u
                else
                    u
                    + (k (rate state.Count) .* given["LearningRate"] .* given["WeightDecay"]).Times views[1]

            let u = Slices.each layout update [ g; theta ]
            u, RuleState.create (state.Count + 1L) moments []

        let adapt (state: RuleState) (g: Tensor) (theta: Tensor) v =
            let share = Coefficient.Of(float (state.Count + 1L)).Power given["Beta2Decay"]

            let one slice (views: Tensor[]) =
                let gradient = views[0] * sign
                let f = factored state g slice gradient views[1]
                turned (epsilon g) share state slice f gradient (views[2] * sign)

            Slices.each layout one [ g; theta; v ]

        let byGradient, byTheta = BoundRule.differentiated step
        BoundRule.create "adafactor" (start layout) step (Ok { byGradient with Pull = adapt }) byTheta false

    /// By parameter, ρ = t^β: vectors V ← (1−ρ)V + ρg²; matrices (of two or more dimensions, the last two) keep the row and
    /// column means R and C of it, V = RC/M with M = mean R. w = g/√max(V, ε₁²), α = max(ε₂, rms θ)·min(lr, 1/√t),
    /// K = rms(w)/d: u = αw/max(1, K) + lr·weightDecay·θ; a schedule multiplies lr, inside the minimum.
    /// z = (α/max(1, K))(v − w(w·v)/‖w‖² if K > 1); vectors z(1−ρ)V₋/V^{3/2}; matrices
    /// z/√V − ρg[p_{i·}/(R_i n_c) + p_{·j}/(C_j n_r) − p_{··}/(M n_r n_c)], p = zw; where V < ε₁²: p = 0, vectors z/ε₁; 0 where V = 0.
    /// State: row_var/NAME, col_var/NAME, variance/NAME. ArgumentException names an option out of range.
    let adafactorWith (o: AdafactorOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate
        Options.requireNonPositive "Beta2Decay" o.Beta2Decay
        Options.requireNonNegative "Epsilon2" o.Epsilon2
        Options.requirePositive "ClippingThreshold" o.ClippingThreshold
        Options.requireNonNegative "WeightDecay" o.WeightDecay

        if o.Epsilon1.HasValue then
            Options.requireNonNegative "Epsilon1" o.Epsilon1.Value

        Learnable.rule
            "adafactor"
            [ Learnable.nonNegative "LearningRate" o.LearningRate
              Learnable.nonPositive "Beta2Decay" o.Beta2Decay
              if o.Epsilon1.HasValue then
                  Learnable.nonNegative "Epsilon1" o.Epsilon1.Value
              Learnable.nonNegative "Epsilon2" o.Epsilon2
              Learnable.positive "ClippingThreshold" o.ClippingThreshold
              Learnable.nonNegative "WeightDecay" o.WeightDecay ]
            false
            (bind o)

    /// Adafactor with that rate.
    let adafactor (learningRate: float) : UpdateRule =
        adafactorWith
            { AdafactorOptions.Default with
                LearningRate = learningRate }
