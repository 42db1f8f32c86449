namespace Sama;

/// <summary>Learning-rate schedules: pure functions of the steps taken (0 at the first) to a factor of the base rate, for
/// <c>rule.Scheduled(…)</c>. Numbers out of range raise an <see cref="ArgumentException"/> that names them.</summary>
public static class Schedule
{
    /// <summary>Always that factor.</summary>
    /// <param name="factor">At least 0.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> Constant(double factor) => F.Schedule.constant(factor).Invoke;

    /// <summary>From <paramref name="start"/> to <paramref name="finish"/> along a line, then <paramref name="finish"/>.</summary>
    /// <param name="start">Factor at step 0.</param>
    /// <param name="finish">Factor from <paramref name="steps"/> on.</param>
    /// <param name="steps">At least 1.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> Linear(double start, double finish, long steps) =>
        F.Schedule.linear(start, finish, steps).Invoke;

    /// <summary>finish + (1 − finish)(1 + cos(πt/steps))/2, then <paramref name="finish"/>.</summary>
    /// <param name="steps">At least 1.</param>
    /// <param name="finish">Factor from <paramref name="steps"/> on.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> Cosine(long steps, double finish = 0) => F.Schedule.cosine(finish, steps).Invoke;

    /// <summary>A cosine that rises again behind <paramref name="steps"/>, as PyTorch's CosineAnnealingLR.</summary>
    /// <param name="steps">Half a period, at least 1.</param>
    /// <param name="finish">The least factor.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> CosineWave(long steps, double finish = 0) =>
        F.Schedule.cosineWave(finish, steps).Invoke;

    /// <summary>t/warmup, then along a line to 0 at <paramref name="total"/>.</summary>
    /// <param name="warmup">At least 0, less than <paramref name="total"/>.</param>
    /// <param name="total">Step at which the factor is 0.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> WarmupLinear(long warmup, long total) =>
        F.Schedule.warmupLinear(warmup, total).Invoke;

    /// <summary>Along a line to 1 at <paramref name="warmup"/>, then a cosine to <paramref name="finish"/>.</summary>
    /// <param name="warmup">At least 0, less than <paramref name="total"/>.</param>
    /// <param name="total">Step at which <paramref name="finish"/> is reached.</param>
    /// <param name="start">Factor at step 0.</param>
    /// <param name="finish">Factor from <paramref name="total"/> on.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> WarmupCosine(long warmup, long total, double start = 0, double finish = 0) =>
        F.Schedule.warmupCosine(start, finish, warmup, total).Invoke;

    /// <summary>gamma^⌊t/every⌋.</summary>
    /// <param name="gamma">At least 0.</param>
    /// <param name="every">At least 1.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> Step(double gamma, long every) => F.Schedule.step(gamma, every).Invoke;

    /// <summary>gamma^(t/every), a real power.</summary>
    /// <param name="gamma">At least 0.</param>
    /// <param name="every">At least 1.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> Exponential(double gamma, long every = 1) =>
        F.Schedule.exponential(gamma, every).Invoke;

    /// <summary>The product of the factors whose boundary is reached.</summary>
    /// <param name="factors">Boundaries, which act at t = boundary, and their factors.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> Piecewise(params IEnumerable<(long Boundary, double Factor)> factors)
    {
        ArgumentNullException.ThrowIfNull(factors);
        return F.Schedule.piecewise(Interop.List(factors.Select(f => f.ToTuple()), nameof(factors))).Invoke;
    }

    /// <summary><paramref name="first"/> for some steps, then <paramref name="second"/> from its own step 0.</summary>
    /// <param name="first">A schedule.</param>
    /// <param name="steps">At least 0.</param>
    /// <param name="second">A schedule.</param>
    /// <returns>The schedule.</returns>
    public static Func<long, double> Following(Func<long, double> first, long steps, Func<long, double> second)
    {
        ArgumentNullException.ThrowIfNull(first);
        ArgumentNullException.ThrowIfNull(second);
        return F.Schedule.following(Interop.Function(first), steps, Interop.Function(second)).Invoke;
    }
}
