namespace Sama;

/// <summary>Hypergradients for a loop of one's own, and what can be asked about them. Nothing here changes a state.</summary>
public static class Hypergradient
{
    /// <summary>The hypergradient at a state: the base steps that the method looks back on are tried from it, with its
    /// batches, masks and rule state; the meta gradient is taken behind them.</summary>
    /// <param name="problem">The problem.</param>
    /// <param name="state">The point.</param>
    /// <param name="method">Another method than the problem's; null: the problem's.</param>
    /// <returns>Total, direct gradient and report; the caller disposes it.</returns>
    /// <exception cref="ArgumentException">A method that the problem cannot serve, with the reason.</exception>
    /// <exception cref="NonFiniteException">A loss, gradient or update that is not finite.</exception>
    public static HypergradientResult Compute(BilevelProblem problem, RunState state, HypergradientMethod? method = null)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        return method is null ? F.Hypergradient.compute(problem, state) : F.Hypergradient.at(problem, state, method);
    }

    /// <summary>Methods at one point, each held against a reference.</summary>
    /// <param name="problem">The problem.</param>
    /// <param name="state">The point.</param>
    /// <param name="reference">The method that counts as right, such as <c>HypergradientMethod.Exact()</c>.</param>
    /// <param name="methods">The methods.</param>
    /// <returns>For each method its response's cosine, length and error to the reference, its time and report.</returns>
    /// <exception cref="ArgumentException">A method that the problem cannot serve, with the reason.</exception>
    public static IReadOnlyList<Comparison> Compare(
        BilevelProblem problem, RunState state, HypergradientMethod reference, params IEnumerable<HypergradientMethod> methods)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(reference);
        return [.. F.Hypergradient.compare(problem, state, reference, Interop.List(methods, nameof(methods)))];
    }

    /// <summary>The problem's method at the solved base problem against central differences of the meta loss with the base
    /// problem solved again; and SAMA as ε → 0 against the exact mixed derivative, which finds a <c>detach</c> that
    /// should be a <see cref="Pass.Stop"/>. For base problems that converge: a fixed batch, no masks.</summary>
    /// <param name="problem">The problem.</param>
    /// <param name="state">Where solving starts.</param>
    /// <param name="tolerance">Norm of the update at which the base problem counts as solved.</param>
    /// <param name="maxSteps">Base steps at most, each time.</param>
    /// <param name="directions">Random directions of λ, at least 1.</param>
    /// <returns>What was found.</returns>
    public static CheckReport Check(
        BilevelProblem problem, RunState state, double tolerance = 1e-6, int maxSteps = 1000, int directions = 3)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        return F.Hypergradient.check(problem, tolerance, maxSteps, directions, state);
    }

    /// <summary>The error of SAMA's central difference against the exact mixed derivative, for each α and norm.</summary>
    /// <param name="problem">A problem with second derivatives.</param>
    /// <param name="state">The point.</param>
    /// <param name="alphas">Values of α.</param>
    /// <param name="norms">Norms; none given: the one over active coordinates.</param>
    /// <returns>An error for each norm and α.</returns>
    /// <exception cref="ArgumentException">A problem over modules.</exception>
    public static IReadOnlyList<EpsilonError> EpsilonSweep(
        BilevelProblem problem, RunState state, IEnumerable<double> alphas, params IEnumerable<PerturbationNorm> norms)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(alphas);
        ArgumentNullException.ThrowIfNull(norms);
        return [.. F.Hypergradient.epsilonSweep(
            problem, state, Interop.Values(alphas), Interop.Values(norms.DefaultIfEmpty(PerturbationNorm.Active)))];
    }

    /// <summary>Why the highest level moves at a state, or stands still: the parts of h, what the losses of the batches
    /// behind the state depend on, what the method met, what the level's rule makes of h. To print.</summary>
    /// <param name="problem">The problem.</param>
    /// <param name="state">The point.</param>
    /// <returns>Numbers and findings; a failure that a run would stop at is one.</returns>
    /// <exception cref="ArgumentException">A problem of one level, or a state of another problem.</exception>
    public static Explanation Explain(BilevelProblem problem, RunState state)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        return F.Hypergradient.explain(problem, state);
    }

    /// <summary>Parameters that none of so many draws connects to a loss: a warning, since parameters that some batches
    /// alone use are ordinary.</summary>
    /// <param name="problem">The problem.</param>
    /// <param name="state">The point.</param>
    /// <param name="draws">Draws of each level, at least 1.</param>
    /// <returns>Names as "level/parameter".</returns>
    public static IReadOnlyList<string> Unreached(BilevelProblem problem, RunState state, int draws = 4)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        return [.. F.Hypergradient.unreached(problem, state, draws)];
    }
}
