using Microsoft.Extensions.Logging;
using TorchSharp;
using static Sama.Tests.Check;

namespace Sama.Tests;

/// <summary>The solver: steps, asynchronous runs, cancellation, validation, callbacks, lifetime.</summary>
internal static class SolverTests
{
    private sealed class Told : IProgress<BilevelStep>
    {
        public List<long> Steps { get; } = [];

        public void Report(BilevelStep value) => Steps.Add(value.Step);
    }

    private sealed class Lines : ILogger
    {
        public List<(LogLevel Level, string Text)> All { get; } = [];

        public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

        public bool IsEnabled(LogLevel level) => true;

        public void Log<TState>(LogLevel level, EventId id, TState state, Exception? error, Func<TState, Exception?, string> format) =>
            All.Add((level, format(state, error)));
    }

    private static async Task<List<BilevelStep>> Collect(IAsyncEnumerable<BilevelStep> steps)
    {
        List<BilevelStep> all = [];
        await foreach (var step in steps) all.Add(step);
        return all;
    }

    private static void SameState(BilevelSolver a, BilevelSolver b)
    {
        Equal(a.StepsTaken, b.StepsTaken, "steps");
        Same(a.Theta["w"], b.Theta["w"], "theta");
        Same(a.Lambda["log"], b.Lambda["log"], "lambda");
    }

    /// <summary>Scores from a list, one a call.</summary>
    private static Validation Scores(params double[] scores)
    {
        var next = 0;
        return new() { Score = (_, _) => scores[next++], Every = 2, Patience = 2 };
    }

    public static IEnumerable<Test> All =>
    [
        Case("a meta step follows every window", () =>
        {
            using var solver = new BilevelSolver(Problems.Ridge(unroll: 3));
            var due = Enumerable.Range(0, 9).Select(_ => solver.Step().Meta is not null).ToArray();
            That(due.SequenceEqual([false, false, true, false, false, true, false, false, true]), string.Join(' ', due));
        }),

        Case("stepping, running and running asynchronously give the same bits", async () =>
        {
            var problem = Problems.Ridge(unroll: 2);
            using var a = new BilevelSolver(problem, new() { Seed = 3 });
            using var b = new BilevelSolver(problem, new() { Seed = 3 });
            await using var c = new BilevelSolver(problem, new() { Seed = 3 });
            for (var i = 0; i < 20; i++) a.Step();
            Equal(20, b.RunSteps(20)!.Step);
            Equal(20, (await Collect(c.RunAsync(20))).Count);
            SameState(a, b);
            SameState(a, c);
        }),

        Case("cancelling between steps leaves a state that goes on as if nothing had been", async () =>
        {
            var problem = Problems.Ridge();
            using var plain = new BilevelSolver(problem);
            await using var solver = new BilevelSolver(problem);
            using var source = new CancellationTokenSource();
            var seen = 0;
            try
            {
                await foreach (var step in solver.RunAsync(10).WithCancellation(source.Token))
                    if (++seen == 4) source.Cancel();
                That(false, "the run was not cancelled");
            }
            catch (OperationCanceledException)
            {
                Equal(4, solver.StepsTaken);
            }

            Throws<OperationCanceledException>(() => solver.RunSteps(1, source.Token));
            solver.RunSteps(6);
            plain.RunSteps(10);
            SameState(plain, solver);
        }),

        Case("breaking out of an asynchronous run ends it", async () =>
        {
            await using var solver = new BilevelSolver(Problems.Ridge());
            await foreach (var step in solver.RunAsync(10))
                if (step.Step == 3) break;
            Equal(3, solver.StepsTaken);
        }),

        Case("callbacks and progress are told of every step, meta steps apart", () =>
        {
            var told = new Told();
            List<long> steps = [], metas = [];
            using var solver = new BilevelSolver(
                Problems.Ridge(unroll: 2),
                new() { Progress = told, OnStep = s => steps.Add(s.Step), OnMetaStep = s => metas.Add(s.Step) });
            solver.RunSteps(5);
            That(told.Steps.SequenceEqual([1, 2, 3, 4, 5]) && steps.SequenceEqual(told.Steps), "steps");
            That(metas.SequenceEqual([2, 4]), "meta steps");
        }),

        Case("the log has steps, scores, the end and failures", () =>
        {
            var log = new Lines();
            using var solver = new BilevelSolver(
                Problems.Ridge(data: draw => draw.Step < 7 ? Problems.Rows(draw) : throw new IOException("disk")),
                new() { Logger = log, Validation = Scores(1, 2, 3) });
            Equal(6, solver.RunSteps(100)!.Step);
            solver.RunSteps(1);
            Throws<IOException>(() => solver.Step());
            Equal(7, log.All.Count(l => l.Level == LogLevel.Debug && l.Text.Contains("meta loss")), "steps");
            Equal(3, log.All.Count(l => l.Level == LogLevel.Information && l.Text.Contains("score")) - 1, "scores");
            Equal(1, log.All.Count(l => l.Text.StartsWith("step 6: stopped")), "the end");
            Equal(1, log.All.Count(l => l.Level == LogLevel.Error && l.Text.StartsWith("step 8 failed")), "failures");
        }),

        Case("a method that does not converge is a warning", () =>
        {
            var log = new Lines();
            var zero = HypergradientMethod.Create("zero", (at, v) =>
                (torch.zeros_like(at.Lambda), Report.Create("zero", residual: 0.5, converged: false)));
            using var solver = new BilevelSolver(Problems.Ridge(method: zero), new() { Logger = log });
            Throws<InvalidOperationException>(() => solver.Step().Meta!.Response.EnsureConverged(), "zero", "0.5");
            Equal(1, log.All.Count(l => l.Level == LogLevel.Warning && l.Text.Contains("0.5")));
        }),

        Case("patience ends a run, and the best state comes back", () =>
        {
            var problem = Problems.Ridge();
            using var best = new BilevelSolver(problem);
            best.RunSteps(4);
            using var solver = new BilevelSolver(
                problem, new() { Validation = Scores(3, 1, 2, double.NaN, 0) with { RestoreBest = true } });
            var last = solver.RunSteps(100)!;
            Equal((8L, true, false), (last.Step, last.Stop, last.Improved));
            Equal(1.0, solver.BestScore!.Value);
            SameState(best, solver);
        }),

        Case("a larger score can be better, and small gains need not count", () =>
        {
            using var solver = new BilevelSolver(
                Problems.Ridge(), new() { Validation = Scores(1, 1.05, 2, 1) with { Maximize = true, MinDelta = 0.1 } });
            List<bool> improved = [];
            for (var i = 0; i < 8; i++)
                if (solver.Step() is { Score: not null } step) improved.Add(step.Improved);
            That(improved.SequenceEqual([true, false, true, false]), string.Join(' ', improved));
        }),

        Case("a score sees the live parameters, without gradients", () =>
        {
            Tensor? seen = null;
            var grad = true;
            double Score(Params theta, Params lambda)
            {
                seen = theta["w"].clone().DetachFromDisposeScope();
                grad = (theta["w"] * 1).requires_grad;
                return 0;
            }

            using var solver = new BilevelSolver(Problems.Ridge(), new() { Validation = new() { Score = Score, Every = 1 } });
            solver.Step();
            Same(solver.Theta["w"], seen!, "theta");
            That(!grad, "no gradient");
        }),

        Case("a run starts from a snapshot, bit for bit", () =>
        {
            var problem = Problems.Ridge(unroll: 2);
            using var whole = new BilevelSolver(problem, new() { Seed = 5 });
            whole.RunSteps(3);
            using var half = whole.Snapshot();
            using var resumed = new BilevelSolver(problem, new() { Initial = half });
            whole.RunSteps(8);
            resumed.RunSteps(8);
            SameState(whole, resumed);
        }),

        Case("pure steps are the solver's", () =>
        {
            var problem = Problems.Ridge(unroll: 2);
            using var solver = new BilevelSolver(problem);
            using var start = problem.Start();
            var (next, steps) = problem.Step(start);
            using (next)
            {
                Equal(steps[^1].Meta.MetaLoss, solver.RunSteps(2)!.Meta!.MetaLoss, "meta loss");
                Same(next.Theta, solver.Theta.Vector, "theta");
            }
        }),

        Case("solving finds θ*, and says when it does not", () =>
        {
            var problem = Problems.Ridge(UpdateRule.Sgd(0.1), data: _ => torch.arange(12));
            using var start = problem.Start();
            var (solved, report) = problem.Solve(start, 1e-12, 5000);
            using (solved)
            {
                report.EnsureConverged();
                var (again, _) = problem.Solve(solved, 0, 1);
                using (again)
                using (var moved = (again.Theta - solved.Theta).abs().max())
                    That(moved.item<double>() < 1e-11, "a solution stays");
            }

            var (unsolved, shortReport) = problem.Solve(start, 1e-12, 3);
            using (unsolved) Throws<InvalidOperationException>(shortReport.EnsureConverged, "residual");
        }),

        Case("batches come from lists by the draw, and from sequences in their order", () =>
        {
            Draw At(long step) => new(0, step, 0, 0);
            var cycle = Batches.Cycle(["a", "b", "c"]);
            Equal("cab", string.Concat(cycle(At(2)), cycle(At(3)), cycle(At(4))));
            var stream = Batches.Stream(new[] { 1, 2 }.Where(_ => true));
            That(Enumerable.Range(0, 5).Select(i => stream(At(0))).SequenceEqual([1, 2, 1, 2, 1]), "sequence");
            Throws<InvalidOperationException>(() => Batches.Stream(Enumerable.Empty<int>())(At(0)), "empty");
        }),

        Case("a step within a step is refused, and disposing within one frees at its end", () =>
        {
            BilevelSolver? solver = null;
            var nested = 0;
            solver = new BilevelSolver(Problems.Ridge(data: draw =>
            {
                if (solver is not null && draw.Stream == 0)
                {
                    Throws<InvalidOperationException>(() => solver.Step(), "in progress");
                    nested++;
                    solver.Dispose();
                }

                return Problems.Rows(draw);
            }));
            solver.Step();
            Equal(1, nested);
            Throws<ObjectDisposedException>(() => solver.Step());
        }),

        Case("a disposed solver says so, twice disposing is nothing", async () =>
        {
            var solver = new BilevelSolver(Problems.Ridge());
            await solver.DisposeAsync();
            solver.Dispose();
            Throws<ObjectDisposedException>(() => solver.Step());
            Throws<ObjectDisposedException>(() => solver.RunAsync(1));
            Throws<ObjectDisposedException>(() => solver.Snapshot());
            Throws<ObjectDisposedException>(() => _ = solver.Theta);
        }),

        Case("10,000 steps keep live tensors constant and resident memory within 5 %", () =>
        {
            using var solver = new BilevelSolver(
                Problems.Weighing(Problems.Net(4), Problems.Net(1)), new() { Validation = new() { Score = (t, _) => t.Vector.sum().item<double>() } });
            (long Tensors, long Memory) Measure(int steps)
            {
                using (torch.NewDisposeScope()) solver.RunSteps(steps);
                for (var i = 0; i < 3; i++)
                {
                    GC.Collect();
                    GC.WaitForPendingFinalizers();
                }

                return (Tensor.TotalCount, Environment.WorkingSet);
            }

            var before = Measure(2000);
            var after = Measure(8000);
            Equal(before.Tensors, after.Tensors, "live tensors");
            That(after.Memory <= 1.05 * before.Memory, $"resident {before.Memory >> 20} MiB at step 2,000, {after.Memory >> 20} MiB at 10,000");
        }),
    ];
}
