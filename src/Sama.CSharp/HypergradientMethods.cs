namespace Sama;

/// <summary>Hypergradient methods, by the field's names.</summary>
/// <remarks>Neumann, ConjugateGradient, FixedPoint, Nystrom, Unrolled and Truncated form products with second derivatives:
/// exactly where every level is a function of <see cref="Params"/>, by differences of first-order gradients where one is a
/// module, or as <c>WithProducts</c> says. Exact and T1T2 form exact ones alone, and refuse modules. Options out of range
/// raise an <see cref="ArgumentException"/> that names them.</remarks>
public static class HypergradientMethodExtensions
{
    extension(HypergradientMethod method)
    {
        /// <summary>The method, its products with second derivatives formed in that way.</summary>
        /// <param name="form">By a graph of the gradient (models as functions of <see cref="Params"/>, plain attention),
        /// or by central differences of first-order gradients: any model, in the memory of a plain step. The report names
        /// the one that was taken.</param>
        /// <returns>The method.</returns>
        /// <exception cref="ArgumentException">The method forms no products (SAMA's three, F2SA), or exact ones alone
        /// (T1T2, whose difference is SAMA, and Exact).</exception>
        public HypergradientMethod WithProducts(ProductForm form)
        {
            ArgumentNullException.ThrowIfNull(method);
            return F.Hypergradient.withProducts(form, method);
        }
    }

    extension(HypergradientMethod)
    {
        /// <summary>SAMA (Choe et al., NeurIPS 2023): ∂u/∂θ ≈ I, v adapted by the base rule; a hypergradient for three
        /// first-order passes.</summary>
        /// <param name="alpha">α of ε = α/‖v‖; null: 1e-3, in float64 1e-5.</param>
        /// <param name="norm">The coordinates over which ‖v‖ is taken.</param>
        /// <param name="centre">Where the difference is centred.</param>
        /// <param name="oneSided">One pass at c + εv, against the centre's own gradient.</param>
        /// <param name="microBatches">How many micro-batches of an accumulated step the perturbed passes see, the first;
        /// 0: all.</param>
        /// <param name="nudge">κ: afterwards θ moves by −κεv; 0 is off.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod Sama(
            double? alpha = null,
            PerturbationNorm norm = PerturbationNorm.Active,
            Centre centre = Centre.PreUpdate,
            bool oneSided = false,
            int microBatches = 0,
            double nudge = 0) =>
            F.Hypergradient.samaWith(new(alpha: alpha, norm: norm, centre: centre, oneSided: oneSided, microBatches: microBatches, nudge: nudge));

        /// <summary>SAMA without adaptation: v is the meta gradient itself.</summary>
        /// <param name="alpha">α of ε = α/‖v‖; null: 1e-3, in float64 1e-5.</param>
        /// <param name="norm">The coordinates over which ‖v‖ is taken.</param>
        /// <param name="centre">Where the difference is centred.</param>
        /// <param name="oneSided">One pass at c + εv, against the centre's own gradient.</param>
        /// <param name="microBatches">How many micro-batches of an accumulated step the perturbed passes see, the first;
        /// 0: all.</param>
        /// <param name="nudge">κ: afterwards θ moves by −κεv; 0 is off.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod SamaNa(
            double? alpha = null,
            PerturbationNorm norm = PerturbationNorm.Active,
            Centre centre = Centre.PreUpdate,
            bool oneSided = false,
            int microBatches = 0,
            double nudge = 0) =>
            F.Hypergradient.samaNaWith(new(alpha: alpha, norm: norm, centre: centre, oneSided: oneSided, microBatches: microBatches, nudge: nudge));

        /// <summary>SAMA's difference along v divided by a diagonal of the empirical Fisher matrix.</summary>
        /// <param name="damping">ρ, added to the diagonal, relative to its mean.</param>
        /// <param name="alpha">α of ε = α/‖v‖; null: 1e-3, in float64 1e-5.</param>
        /// <param name="norm">The coordinates over which ‖v‖ is taken.</param>
        /// <param name="centre">Where the difference is centred.</param>
        /// <param name="oneSided">One pass at c + εv, against the centre's own gradient.</param>
        /// <param name="microBatches">How many micro-batches of an accumulated step the perturbed passes see, the first;
        /// 0: all.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod SamaFisher(
            double damping = 0.1,
            double? alpha = null,
            PerturbationNorm norm = PerturbationNorm.Active,
            Centre centre = Centre.PreUpdate,
            bool oneSided = false,
            int microBatches = 0) =>
            F.Hypergradient.samaFisherWith(new(damping: damping, difference: new(alpha: alpha, norm: norm, centre: centre, oneSided: oneSided, microBatches: microBatches, nudge: 0)));

        /// <summary>The implicit function theorem, solved densely in float64.</summary>
        /// <param name="maxSize">Refused above so many base parameters.</param>
        /// <param name="followStops">Differentiate through stop-features too, as the fixed point does.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod Exact(
            long maxSize = 4096, bool followStops = true) =>
            F.Hypergradient.exactWith(new(maxSize: maxSize, followStops: followStops));

        /// <summary>T1–T2 (Luketina et al., ICML 2016): −(∂g/∂λ)ᵀ (∂u/∂g)ᵀ v at θₜ₋₁, the one-step-unrolled response and
        /// SAMA's limit as ε → 0.</summary>
        /// <returns>The method.</returns>
        public static HypergradientMethod T1T2() => F.Hypergradient.t1t2;

        /// <summary>The Neumann series η Σ (I − η ∂u/∂θ)ʲ for the inverse.</summary>
        /// <param name="terms">Terms of the series.</param>
        /// <param name="step">η; the series converges if all eigenvalues of I − η ∂u/∂θ are below 1 in size.</param>
        /// <param name="measureResidual">One product more, for the residual in the report.</param>
        /// <param name="tolerance">Relative residual that counts as converged, below 1.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod Neumann(
            int terms = 5,
            double step = 1,
            bool measureResidual = true,
            double tolerance = 1e-6) =>
            F.Hypergradient.neumannWith(new(terms: terms, step: step, measureResidual: measureResidual, tolerance: tolerance));

        /// <summary>Conjugate gradients on the adjoint system; MINRES or normal equations where the rule asks for it.</summary>
        /// <param name="iterations">Iterations at most.</param>
        /// <param name="tolerance">Stops at this relative residual, below 1.</param>
        /// <param name="damping">ρ, added to the diagonal.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod ConjugateGradient(
            int iterations = 20, double tolerance = 1e-6, double damping = 0) =>
            F.Hypergradient.conjugateGradientWith(new(iterations: iterations, tolerance: tolerance, damping: damping));

        /// <summary>The fixed-point iteration q ← q − η((∂u/∂θ)ᵀ q − v).</summary>
        /// <param name="iterations">Iterations at most.</param>
        /// <param name="step">η.</param>
        /// <param name="tolerance">Stops at this relative residual, below 1.</param>
        /// <param name="start">q₀, flat, borrowed for as long as the method is used; null: 0.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod FixedPoint(
            int iterations = 100,
            double step = 1,
            double tolerance = 1e-6,
            Tensor? start = null) =>
            F.Hypergradient.fixedPointWith(new(iterations: iterations, step: step, tolerance: tolerance, start: start));

        /// <summary>The inverse of a low-rank approximation from columns of the Hessian.</summary>
        /// <param name="rank">Columns that are computed, drawn by the seed.</param>
        /// <param name="rho">ρ, which stands for the Hessian outside their span.</param>
        /// <param name="columns">The columns themselves; null: drawn.</param>
        /// <param name="seed">Draws the columns.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod Nystrom(
            int rank = 10,
            double rho = 0.01,
            IEnumerable<long>? columns = null,
            long seed = 0) =>
            F.Hypergradient.nystromWith(new(rank: rank, columns: columns?.ToArray(), rho: rho, seed: seed));

        /// <summary>Reverse mode through the base steps since the last meta step.</summary>
        /// <param name="steps">Base steps from the first to θₜ; 0: the whole window.</param>
        /// <param name="last">How many of them, the last, are differentiated; 0: all.</param>
        /// <param name="recompute">Find the gradient of a step taken again instead of keeping those of the window; either way about √(2·steps) states are kept.</param>
        /// <param name="followStops">Differentiate through stop-features too, as the trajectory does.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod Unrolled(
            int steps = 0, int last = 0, bool recompute = false, bool followStops = true) =>
            F.Hypergradient.unrolledWith(new(steps: steps, last: last, recompute: recompute, followStops: followStops));

        /// <summary>Reverse mode through the last base steps alone.</summary>
        /// <param name="last">How many, at least 1.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod Truncated(int last) => F.Hypergradient.truncated(last);

        /// <summary>The value-function penalty (fully first-order).</summary>
        /// <param name="sigma">σ: the error falls with 1/σ, rounding grows with σ.</param>
        /// <param name="iterations">Gradient steps towards θ_σ.</param>
        /// <param name="step">η of these steps.</param>
        /// <param name="tolerance">Stops at this relative residual, below 1.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod F2sa(
            double sigma = 100,
            int iterations = 100,
            double step = 0.1,
            double tolerance = 1e-6) =>
            F.Hypergradient.f2saWith(new(sigma: sigma, iterations: iterations, step: step, tolerance: tolerance));

        /// <summary>SOBA (Dagréou et al., NeurIPS 2022): the adjoint goes one step along from meta step to meta step, as part of
        /// the run's state. For rules that act on each coordinate by itself, and one level above.</summary>
        /// <param name="step">η, in steps of the base rule.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod Soba(double step = 1) => F.Hypergradient.soba(step);

        /// <summary>AmIGO (Arbel and Mairal, ICLR 2022): the adjoint system is solved from where the meta step before it ended,
        /// which is part of the run's state. For rules that act on each coordinate by itself, and one level above.</summary>
        /// <param name="iterations">Steps of the linear solve at each meta step.</param>
        /// <param name="step">η of these steps, in steps of the base rule.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod Amigo(int iterations = 10, double step = 1) =>
            F.Hypergradient.amigoWith(new(iterations: iterations, step: step));

        /// <summary>Two-phase descent: one method at most meta steps and a better one at every so many, the first among them;
        /// reports name which ran.</summary>
        /// <param name="count">Every how many meta steps, at least 2.</param>
        /// <param name="better">The method of these.</param>
        /// <param name="usual">The method of the others.</param>
        /// <returns>The method; a problem has to serve both.</returns>
        public static HypergradientMethod EveryNth(int count, HypergradientMethod better, HypergradientMethod usual)
        {
            ArgumentNullException.ThrowIfNull(better);
            ArgumentNullException.ThrowIfNull(usual);
            return F.Hypergradient.everyNth(count, better, usual);
        }

        /// <summary>Two-phase descent: one method for so many meta steps, another one from then on; reports name which
        /// ran.</summary>
        /// <param name="metaSteps">Meta steps under the first one, at least 1.</param>
        /// <param name="first">The method of these.</param>
        /// <param name="later">The method of all later ones.</param>
        /// <returns>The method; a problem has to serve both.</returns>
        public static HypergradientMethod Switching(long metaSteps, HypergradientMethod first, HypergradientMethod later)
        {
            ArgumentNullException.ThrowIfNull(first);
            ArgumentNullException.ThrowIfNull(later);
            return F.Hypergradient.switching(metaSteps, first, later);
        }

        /// <summary>A method of one's own.</summary>
        /// <param name="name">Names the method in reports and messages.</param>
        /// <param name="bestResponse">(solution, v) ↦ ((dθ*/dλ)ᵀ v, what was done). The solution is borrowed, v too but may
        /// be overwritten; the vector is handed over.</param>
        /// <param name="needs">What is asked of the problem: checked when it is composed.</param>
        /// <returns>The method.</returns>
        public static HypergradientMethod Create(
            string name,
            Func<IBaseSolution, Tensor, (Tensor Response, Report Report)> bestResponse,
            params IEnumerable<Need> needs)
        {
            ArgumentException.ThrowIfNullOrEmpty(name);
            ArgumentNullException.ThrowIfNull(bestResponse);

            Tuple<Tensor, Report> Respond(IBaseSolution solution, Tensor v)
            {
                var (response, report) = bestResponse(solution, v);
                return Tuple.Create(response, report);
            }

            return F.Hypergradient.create(
                name,
                Interop.List(needs, nameof(needs)),
                Interop.Function<IBaseSolution, Tensor, Tuple<Tensor, Report>>(Respond));
        }
    }

    extension(Report)
    {
        /// <summary>The report of a method of one's own.</summary>
        /// <param name="method">The method's name.</param>
        /// <param name="passes">Passes over the base loss.</param>
        /// <param name="products">Matrix-vector products.</param>
        /// <param name="residual">Relative residual of the adjoint system; null for a method that solves none.</param>
        /// <param name="converged">Null for a method that does not iterate.</param>
        /// <returns>The report.</returns>
        public static Report Create(
            string method, int passes = 0, int products = 0, double? residual = null, bool? converged = null)
        {
            ArgumentException.ThrowIfNullOrEmpty(method);
            return new Report(
                method: method, norm: null, activeNorm: null, epsilon: null, residual: residual, conditionNumber: null,
                converged: converged, passes: passes, products: products, productForm: null, zeros: 0, capped: 0, note: null);
        }
    }
}
