namespace Sama;

/// <summary>Hypergradient methods.</summary>
public static class HypergradientMethodExtensions
{
    extension(HypergradientMethod)
    {
        /// <summary>SAMA (Choe et al., NeurIPS 2023): ∂u/∂θ ≈ I, v adapted by the base rule; a hypergradient for three
        /// first-order passes.</summary>
        /// <param name="alpha">α of ε = α/‖v‖; null: 1e-2, in float64 1e-5.</param>
        /// <param name="norm">The coordinates over which ‖v‖ is taken.</param>
        /// <param name="centre">Where the difference is centred.</param>
        /// <param name="oneSided">One pass at c + εv, against the centre's own gradient.</param>
        /// <param name="nudge">κ: afterwards θ moves by −κεv; 0 is off.</param>
        /// <returns>The method.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static HypergradientMethod Sama(
            double? alpha = null,
            PerturbationNorm norm = PerturbationNorm.Active,
            Centre centre = Centre.PreUpdate,
            bool oneSided = false,
            double nudge = 0) =>
            F.Hypergradient.samaWith(new SamaOptions(alpha, norm, centre, oneSided, nudge));

        /// <summary>SAMA without adaptation: v is the meta gradient itself.</summary>
        /// <param name="alpha">α of ε = α/‖v‖; null: 1e-2, in float64 1e-5.</param>
        /// <param name="norm">The coordinates over which ‖v‖ is taken.</param>
        /// <param name="centre">Where the difference is centred.</param>
        /// <param name="oneSided">One pass at c + εv, against the centre's own gradient.</param>
        /// <param name="nudge">κ: afterwards θ moves by −κεv; 0 is off.</param>
        /// <returns>The method.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static HypergradientMethod SamaNa(
            double? alpha = null,
            PerturbationNorm norm = PerturbationNorm.Active,
            Centre centre = Centre.PreUpdate,
            bool oneSided = false,
            double nudge = 0) =>
            F.Hypergradient.samaNaWith(new SamaOptions(alpha, norm, centre, oneSided, nudge));

        /// <summary>A method of one's own.</summary>
        /// <param name="name">Names the method in reports and messages.</param>
        /// <param name="bestResponse">(solution, v) ↦ ((dθ*/dλ)ᵀ v, what was done). v and the solution are borrowed, the
        /// vector is handed over.</param>
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
                if (response is null || report is null)
                    throw new InvalidOperationException($"method '{name}' returned null");
                if (!response.shape.SequenceEqual(solution.Lambda.shape))
                    throw new InvalidOperationException(
                        $"method '{name}' returned shape [{string.Join('x', response.shape)}], λ has [{string.Join('x', solution.Lambda.shape)}]");
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
            return new Report(method, null, null, null, residual, null, converged, passes, products, 0);
        }
    }
}
