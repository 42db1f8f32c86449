using F = Sama.Functional;

namespace Sama;

/// <summary>A bilevel problem run in place, one base step at a time.</summary>
public sealed class BilevelSolver : IDisposable
{
    private readonly F.BilevelRun run;

    /// <summary>Starts a run; modules are trained in place.</summary>
    /// <param name="baseLevel">What is trained.</param>
    /// <param name="metaLevel">What its training depends on.</param>
    /// <param name="method">How the hypergradient is found.</param>
    /// <param name="options">Base steps per meta step, warm-up, accumulation; null for the defaults.</param>
    /// <param name="seed">Fixes batches and masks.</param>
    /// <exception cref="ArgumentException">A method that the levels cannot serve, options out of range, or a
    /// parameter that influences no loss; the message names it.</exception>
    public BilevelSolver(Level baseLevel, Level metaLevel, HypergradientMethod method, BilevelOptions? options = null, long seed = 0)
    {
        ArgumentNullException.ThrowIfNull(baseLevel);
        ArgumentNullException.ThrowIfNull(metaLevel);
        ArgumentNullException.ThrowIfNull(method);
        var levels = Microsoft.FSharp.Collections.ListModule.OfSeq([baseLevel, metaLevel]);
        var problem = F.Problem.create(options ?? BilevelOptions.Default, method, levels);
        var start = F.Bilevel.start(seed, problem);
        run = new F.BilevelRun(problem, start);
        F.RunState.dispose(start);
    }

    /// <summary>One base step, and the meta step if one is due. After an exception the state is the one before it.</summary>
    /// <exception cref="NonFiniteException">A loss, gradient or update that is not finite.</exception>
    public StepReport Step() => run.Step();

    /// <summary>The live base parameters; borrowed.</summary>
    public Params Theta => run.Theta;

    /// <summary>The live meta parameters; borrowed.</summary>
    public Params Lambda => run.Lambda;

    /// <summary>Frees the run's vectors.</summary>
    public void Dispose() => ((IDisposable)run).Dispose();
}
