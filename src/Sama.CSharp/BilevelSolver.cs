using System.Runtime.CompilerServices;
using TorchSharp;

namespace Sama;

/// <summary>A problem run in place, one base step at a time.</summary>
/// <remarks>Steps may be taken on any thread, one at a time. What a delegate makes dies with the step. The run's
/// parameters are the solver's own; a module's are the run's, also after the solver is disposed.</remarks>
public sealed class BilevelSolver : IDisposable, IAsyncDisposable
{
    private readonly BilevelSolverOptions options;
    private readonly Lock sync = new();
    private readonly F.GuardedRun guarded;
    private bool stepping;
    // true on a thread that scores: it stands between two steps
    private readonly ThreadLocal<bool> scoring = new();
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
    public double? BestScore => guarded.BestScore;

    /// <summary>What was wrong with files that the run would have gone on from; empty if nothing was.</summary>
    public IReadOnlyList<string> PassedOver => guarded.PassedOver;

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

    /// <summary>Steps on the caller's thread, until early stopping ends them. Behind the last one the run has ended: its
    /// checkpoint is written, and under <see cref="Validation.RestoreBest"/> the best state comes back.</summary>
    /// <param name="steps">Base steps at most.</param>
    /// <param name="cancellationToken">Looked at between steps; the state stays usable.</param>
    /// <returns>The last step; null if none was asked for.</returns>
    /// <exception cref="OperationCanceledException">The token was cancelled; the checkpoint is written.</exception>
    public BilevelStep? RunSteps(int steps, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(steps);
        BilevelStep? last = null;
        Saved(() =>
        {
            for (var i = 0; i < steps && last is not { Stop: true }; i++)
            {
                ThrowIfCancelled(cancellationToken);
                last = Step();
            }
        });
        End();
        return last;
    }

    /// <summary>Steps on the thread pool, one whenever the consumer asks, until early stopping ends them; the run ends as
    /// under <see cref="RunSteps"/>. A consumer that breaks off leaves the checkpoint of the last step.</summary>
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
        // a score may keep the state that it judges
        return scoring.Value ? guarded.Run.Snapshot() : Exclusively(() => guarded.Run.Snapshot());
    }

    /// <summary>A copy of the state that had the best score so far, under <see cref="Validation.KeepBest"/> or
    /// <see cref="Validation.RestoreBest"/>.</summary>
    /// <returns>The state, which the caller disposes; null before the first score.</returns>
    /// <exception cref="ObjectDisposedException">The solver is disposed.</exception>
    public RunState? BestState()
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        return guarded.BestState();
    }

    /// <summary>Goes back to the state of the best score, whether or not patience has ended.</summary>
    /// <returns>False if there is none yet.</returns>
    /// <exception cref="InvalidOperationException">Neither <see cref="Validation.KeepBest"/> nor
    /// <see cref="Validation.RestoreBest"/> is set.</exception>
    public bool RestoreBest()
    {
        return Exclusively(guarded.RestoreBest);
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
        var left = true;
        try
        {
            var stopped = false;
            for (var i = 0; i < steps && !stopped; i++)
            {
                ThrowIfCancelled(cancellationToken);
                var step = await Task.Run(Step, CancellationToken.None).ConfigureAwait(false);
                yield return step;
                stopped = step.Stop;
            }

            left = false;
        }
        finally
        {
            if (left) Save();
        }

        End();
    }

    /// <summary>Where one rank is asked to stop, all stop.</summary>
    private void ThrowIfCancelled(CancellationToken token)
    {
        if (!Problem.Communicator.Any(token.IsCancellationRequested)) return;
        token.ThrowIfCancellationRequested();
        throw new OperationCanceledException("another rank was asked to stop");
    }

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

        var step = BilevelStep.Of(report);
        if (step.Stop && options.Logger is { } told) SolverLog.Stopped(told, step.Step, report.Evaluation);
        return step;
    }

    private F.GuardedRun Start()
    {
        var checkpoint = options.Checkpoint;
        var guard = new GuardOptions(
            folder: checkpoint?.Folder!,
            every: checkpoint?.Every ?? 0,
            keep: checkpoint?.Keep ?? 3,
            skipAtMost: options.SkipAtMost,
            rollbacks: options.Rollbacks,
            evaluation: options.Validation?.Evaluation(scoring)!,
            best: checkpoint is { Best: true } && options.Validation is not null,
            telemetry: options.Telemetry!);
        using var found = checkpoint is { Resume: true } ? Checkpoint.Latest(checkpoint.Folder, Problem) : null;
        if (found is not null) return F.GuardedRun.Resume(Problem, found, guard);
        return options.Initial is { } state
            ? new F.GuardedRun(Problem, state, guard)
            : F.GuardedRun.FromSeed(Problem, options.Seed, guard);
    }

    /// <summary>What breaks a run off leaves the checkpoint of its last step; a failure of that is told with it.</summary>
    private void Saved(Action run)
    {
        try
        {
            run();
        }
        catch (Exception error)
        {
            try
            {
                Save();
            }
            catch (Exception other)
            {
                error.Data["Sama.CheckpointFailure"] = other.Message;
            }

            throw;
        }
    }

    private void Save() => Exclusively(() =>
    {
        guarded.Save();
        return true;
    });

    private void End() => Exclusively(() =>
    {
        guarded.End();
        return true;
    });

    private void Free() => ((IDisposable)guarded).Dispose();
}
