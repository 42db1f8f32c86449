using System.Runtime.CompilerServices;
using TorchSharp;

namespace Sama;

/// <summary>A problem run in place, one base step at a time.</summary>
/// <remarks>Steps may be taken on any thread, one at a time. What a delegate makes dies with the step. The run's
/// parameters are the solver's own; a module's are the run's, also after the solver is disposed.</remarks>
public sealed class BilevelSolver : IDisposable, IAsyncDisposable
{
    private readonly BilevelSolverOptions options;
    private readonly Patience? patience;
    private readonly Lock sync = new();
    private readonly F.GuardedRun guarded;
    private bool stepping;
    private Thread? stepper;
    private bool disposed;

    /// <summary>Starts a run.</summary>
    /// <param name="problem">What is solved.</param>
    /// <param name="options">Seed, validation, callbacks, log; null for the defaults.</param>
    /// <exception cref="ArgumentException">An initial state of another problem, or inside a window that it does not hold;
    /// validation options out of range.</exception>
    public BilevelSolver(BilevelProblem problem, BilevelSolverOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(problem);
        this.options = options ?? new();
        patience = this.options.Validation is { } validation ? new Patience(validation) : null;
        Problem = problem;
        guarded = Start();
    }

    /// <summary>What is solved.</summary>
    public BilevelProblem Problem { get; }

    /// <summary>Base steps taken.</summary>
    public long StepsTaken => Run.StepsTaken;

    /// <summary>The live base parameters; borrowed, they change with the next step.</summary>
    public Params Theta => Run.Theta;

    /// <summary>The live meta parameters; borrowed, they change with the next step.</summary>
    public Params Lambda => Run.Lambda;

    /// <summary>The live parameters of a level; borrowed, they change with the next step.</summary>
    /// <param name="level">The level's name.</param>
    /// <returns>Its parameters.</returns>
    /// <exception cref="ArgumentException">There is no level of that name.</exception>
    public Params Parameters(string level) => Run.Parameters(level);

    /// <summary>The best validation score so far; null before the first.</summary>
    public double? BestScore => patience?.Best;

    /// <summary>What was wrong with newer checkpoints than the one that the run went on from; empty if nothing was.</summary>
    public IReadOnlyList<string> PassedOver { get; private set; } = [];

    private F.BilevelRun Run
    {
        get
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            return guarded.Run;
        }
    }

    /// <summary>One base step, the meta step if one is due, and the score if one is due.</summary>
    /// <returns>What was done. If the step itself throws, the state is the one before it; if the score or a callback does,
    /// the step was taken.</returns>
    /// <exception cref="NonFiniteException">A loss, gradient or update that is not finite.</exception>
    /// <exception cref="InvalidOperationException">A step is in progress on another thread.</exception>
    /// <exception cref="ObjectDisposedException">The solver is disposed.</exception>
    public BilevelStep Step()
    {
        var step = Exclusively(Advance);
        if (options.Logger is { } logger) SolverLog.Write(logger, step);
        options.OnStep?.Invoke(step);
        if (step.Meta is not null) options.OnMetaStep?.Invoke(step);
        options.Progress?.Report(step);
        return step;
    }

    /// <summary>Steps on the caller's thread, until early stopping ends them.</summary>
    /// <param name="steps">Base steps at most.</param>
    /// <param name="cancellationToken">Looked at between steps; the state stays usable.</param>
    /// <returns>The last step; null if none was asked for.</returns>
    /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
    public BilevelStep? RunSteps(int steps, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(steps);
        BilevelStep? last = null;
        var cancelled = false;
        for (var i = 0; i < steps && last is not { Stop: true } && !(cancelled = Cancelled(cancellationToken)); i++)
            last = Step();
        End();
        if (cancelled) throw Stopped(cancellationToken);
        return last;
    }

    /// <summary>Steps on the thread pool, one whenever the consumer asks, until early stopping ends them.</summary>
    /// <param name="steps">Base steps at most.</param>
    /// <param name="cancellationToken">Looked at between steps; a step is never broken off, the state stays usable.</param>
    /// <returns>The steps. Between two of them the solver and the modules may be read.</returns>
    /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
    public IAsyncEnumerable<BilevelStep> RunAsync(int steps, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(steps);
        ObjectDisposedException.ThrowIf(disposed, this);
        return Steps(steps, cancellationToken);
    }

    /// <summary>A copy of the state, with which another run can start.</summary>
    /// <returns>The state; the caller disposes it.</returns>
    /// <exception cref="InvalidOperationException">A step is in progress on another thread.</exception>
    public RunState Snapshot()
    {
        // a score may keep the state that it judges: its thread stands between two steps
        lock (sync)
            if (stepper == Thread.CurrentThread) return guarded.Run.Snapshot();

        return Exclusively(() => guarded.Run.Snapshot());
    }

    /// <summary>A copy of the state that had the best score so far, under <see cref="Validation.KeepBest"/> or
    /// <see cref="Validation.RestoreBest"/>.</summary>
    /// <returns>The state, which the caller disposes; null before the first score.</returns>
    /// <exception cref="ObjectDisposedException">The solver is disposed.</exception>
    public RunState? BestState()
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        return patience?.State is { } best ? F.RunState.copy(best) : null;
    }

    /// <summary>Goes back to the state of the best score, whether or not patience has ended.</summary>
    /// <returns>False if there is none yet.</returns>
    /// <exception cref="InvalidOperationException">Neither <see cref="Validation.KeepBest"/> nor
    /// <see cref="Validation.RestoreBest"/> is set.</exception>
    public bool RestoreBest()
    {
        if (patience is not { Keeps: true })
            throw new InvalidOperationException("no state is kept: set Validation.KeepBest or Validation.RestoreBest");
        return Exclusively(() =>
        {
            if (patience.State is not { } best) return false;
            guarded.Restart(best);
            return true;
        });
    }

    /// <summary>Frees the run's vectors, at the end of the step in progress if there is one. Modules keep theirs.</summary>
    public void Dispose()
    {
        lock (sync)
        {
            if (disposed) return;
            disposed = true;
            if (stepping) return;
        }

        Free();
    }

    /// <summary>As <see cref="Dispose"/>; it does not wait.</summary>
    /// <returns>A completed task.</returns>
    public ValueTask DisposeAsync()
    {
        Dispose();
        return ValueTask.CompletedTask;
    }

    private async IAsyncEnumerable<BilevelStep> Steps(int steps, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var (stopped, cancelled) = (false, false);
        for (var i = 0; i < steps && !stopped && !(cancelled = Cancelled(cancellationToken)); i++)
        {
            var step = await Task.Run(Step, CancellationToken.None).ConfigureAwait(false);
            yield return step;
            stopped = step.Stop;
        }

        End();
        if (cancelled) throw Stopped(cancellationToken);
    }

    /// <summary>Whether a rank was asked to stop: all stop then.</summary>
    private bool Cancelled(CancellationToken token) => Problem.Communicator.Any(token.IsCancellationRequested);

    private static OperationCanceledException Stopped(CancellationToken token) =>
        token.IsCancellationRequested ? new(token) : new("another rank was asked to stop");

    private T Exclusively<T>(Func<T> action)
    {
        lock (sync)
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            if (stepping) throw new InvalidOperationException("a step is in progress; a solver takes one at a time");
            stepping = true;
        }

        try
        {
            return action();
        }
        finally
        {
            bool free;
            lock (sync)
            {
                stepping = false;
                free = disposed;
            }

            if (free) Free();
        }
    }

    private BilevelStep Advance()
    {
        StepReport report;
        try
        {
            report = guarded.Step();
        }
        catch (Exception error) when (options.Logger is not null)
        {
            SolverLog.Failed(options.Logger, guarded.Run.StepsTaken + 1, error);
            throw;
        }

        var step = new BilevelStep
        {
            Step = report.Step,
            BaseLoss = report.BaseLoss,
            Meta = report.Meta,
            Metas = report.Metas,
            Skipped = report.Skipped,
        };
        if (patience is { } watch && report.Step % watch.Options.Every == 0) step = Validate(watch, step);
        // behind the score, which it remembers
        if (options.Checkpoint is { Every: > 0 } due && report.Skipped is null && StepsTaken % due.Every == 0)
            guarded.Checkpoint();
        return step;
    }

    private BilevelStep Validate(Patience watch, BilevelStep step)
    {
        double score;
        lock (sync) stepper = Thread.CurrentThread;
        try
        {
            score = guarded.Run.Between(() => watch.Options.Score(guarded.Run.Theta, guarded.Run.Lambda));
        }
        finally
        {
            lock (sync) stepper = null;
        }

        score = Problem.Communicator.Mean(score);
        var improved = watch.Improves(score, step.Step);
        if (improved && watch.Keeps) watch.Keep(guarded.Run.Snapshot());
        if (improved) WriteBest(watch);
        if (watch.Exhausted)
        {
            if (options.Logger is { } logger) SolverLog.Stopped(logger, step.Step, watch.Best ?? score, watch.BestStep);
            if (watch.Options.RestoreBest && watch.State is { } best) guarded.Restart(best);
        }

        return step with { Score = score, Improved = improved, Stop = watch.Exhausted };
    }

    private F.GuardedRun Start()
    {
        var checkpoint = options.Checkpoint;
        var guard = new GuardOptions(
            checkpoint?.Folder!, 0, checkpoint?.Keep ?? 3, options.SkipAtMost, options.Rollbacks);
        using var found = checkpoint is { Resume: true } ? Checkpoint.Latest(checkpoint.Folder, Problem) : null;
        var started = (found?.State ?? options.Initial) is { } state
            ? new F.GuardedRun(Problem, state, guard)
            : F.GuardedRun.FromSeed(Problem, options.Seed, guard);
        if (patience is { } watch) started.Notes = () => watch.Notes;
        if (found is null) return started;
        PassedOver = found.Skipped;
        if (patience is null) return started;
        patience.Resume(found.Info.Notes);
        var best = F.Checkpoints.best(checkpoint!.Folder);
        if (patience.Keeps && patience.Best is not null && File.Exists(best)) patience.Keep(Checkpoint.Load(Problem, best));
        return started;
    }

    private void WriteBest(Patience watch)
    {
        if (options.Checkpoint is not { Best: true } checkpoint) return;
        using (var state = guarded.Run.Snapshot())
            if (Problem.Communicator.Rank == 0) F.Checkpoints.saveBest(checkpoint.Folder, watch.Notes, state);
        // and one that knows its score
        guarded.Checkpoint();
    }

    /// <summary>The state where a run ends, unless it is written already.</summary>
    private void End()
    {
        if (options.Checkpoint is not null && guarded.LastSaved != StepsTaken) Exclusively(guarded.Checkpoint);
    }

    private void Free()
    {
        ((IDisposable)guarded).Dispose();
        patience?.Dispose();
    }
}
