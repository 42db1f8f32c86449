using System.Text.Json;
using TorchSharp;
using static Sama.Tests.Check;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>What a trainer does beside steps: telemetry, metrics, the best state, one level alone, policies of failure.</summary>
internal static class TrainerTests
{
    private static void InFolder(Action<string> body)
    {
        var folder = Directory.CreateTempSubdirectory("trainer-");
        try
        {
            body(Path.Combine(folder.FullName, "run"));
        }
        finally
        {
            folder.Delete(true);
        }
    }

    /// <summary>θ counts its steps down from 0.</summary>
    private static BilevelProblem Counting => BilevelProblem.Create(
        Level.Create("count", [("n", zeros(1, dtype: float64))], UpdateRule.Sgd(1), _ => 0, (_, theta, _, _) => theta["n"].sum()));

    private static double Count(Params theta) => -theta["n"].item<double>();

    /// <summary>The base loss is NaN at steps that <paramref name="bad"/> names.</summary>
    private static BilevelProblem Failing(NonFinitePolicy policy, Func<Draw, bool> bad) => BilevelProblem.Create(
        Level.Create("base", [("w", ones(3, dtype: float64))], UpdateRule.Adam(0.1), draw => draw, (_, theta, lambda, draw) =>
            (theta["w"].square() * lambda["x"]).sum() * (bad(draw) ? double.NaN : 1)),
        Level.Create("meta", [("x", ones(3, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, theta, _, _) =>
            theta["w"].square().sum()),
        HypergradientMethod.Sama(),
        nonFinite: policy);

    private static Validation Scores(params double[] scores) => new()
    {
        Every = 1,
        Score = (theta, _) => scores[Math.Min((int)Count(theta), scores.Length) - 1],
    };

    public static IEnumerable<Test> All =>
    [
        Case("telemetry of a solver: numbers of a step, lines, a folder for TensorBoard", () => InFolder(folder =>
        {
            var lines = Path.Combine(folder, "steps.jsonl");
            using (var solver = new BilevelSolver(
                Problems.Ridge(unroll: 2), new() { Telemetry = new() { JsonLines = lines, TensorBoard = folder, TensorBoardEvery = 1 } }))
            {
                var step = solver.RunSteps(4)!;
                That(step.Telemetry is { Passes: 2, Examples: 6, Tensors: > 0, ResidentBytes: > 0 }, $"{step.Telemetry}");
                That(step.Telemetry!.Phases[RunPhase.Base] > TimeSpan.Zero && step.Meta!.Cosine is >= -1 and <= 1, "phases, cosine");
                That(step.ToString().Contains("'penalty': loss"), step.ToString());
            }

            var last = JsonDocument.Parse(File.ReadAllLines(lines)[^1]).RootElement;
            Equal(4, last.GetProperty("step").GetInt64());
            Equal("penalty", last.GetProperty("metas")[0].GetProperty("level").GetString());
            Equal(1, Directory.GetFiles(folder, "*tfevents*").Length, "event files");
            using var plain = new BilevelSolver(Problems.Ridge());
            That(plain.Step() is { Telemetry: null, Meta.Cosine: null }, "nobody asked");
            Throws<ArgumentException>(() => new BilevelSolver(Problems.Ridge(), new() { Telemetry = new() { Every = 0 } }), "Every");
        })),

        Case("one level alone trains plainly, and resumes", () => InFolder(folder =>
        {
            BilevelSolverOptions options = new() { Checkpoint = new() { Folder = folder } };
            using (var solver = new BilevelSolver(Counting, options))
                That(solver.RunSteps(3) is { Meta: null, Step: 3 }, "no meta step");
            using var second = new BilevelSolver(Counting, options);
            second.RunSteps(2);
            Equal(5.0, Count(second.Theta));
            using var start = Counting.Start();
            Throws<ArgumentException>(() => Hypergradient.Compute(Counting, start), "one level");
        })),

        Case("several metrics; one of them decides which state comes back where the run ends", () =>
        {
            var options = new BilevelSolverOptions
            {
                Validation = new()
                {
                    Every = 1,
                    Metrics = (theta, _) => new Dictionary<string, double>
                    {
                        ["loss"] = -Count(theta),
                        ["accuracy"] = Count(theta) == 2 ? 0.9 : 0.5,
                    },
                    Best = "accuracy",
                    Maximize = true,
                    RestoreBest = true,
                },
            };
            using var solver = new BilevelSolver(Counting, options);
            var last = solver.RunSteps(4)!;
            Equal(-4.0, last.Metrics["loss"]);
            Equal((0.5, false, 0.9), (last.Score!.Value, last.Improved, solver.BestScore!.Value));
            Equal((2.0, 2L), (Count(solver.Theta), solver.StepsTaken), "the best state");
            Throws<ArgumentException>(() => new BilevelSolver(Counting, new() { Validation = new() }), "a Score, or Metrics");
        }),

        Case("the best state comes back without patience, asynchronously too, not where a run is cancelled", () =>
        {
            using var solver = new BilevelSolver(Counting, new() { Validation = Scores(3, 1, 2) with { RestoreBest = true } });
            solver.RunSteps(3);
            Equal(2.0, Count(solver.Theta));
            using var other = new BilevelSolver(Counting, new() { Validation = Scores(3, 1, 2) with { RestoreBest = true } });
            Drain(other.RunAsync(3)).Wait();
            Equal(2.0, Count(other.Theta));
            using var cancelled = new BilevelSolver(Counting, new() { Validation = Scores(3, 1, 2) with { RestoreBest = true } });
            using var source = new CancellationTokenSource();
            cancelled.RunSteps(2);
            cancelled.Step();
            source.Cancel();
            Throws<OperationCanceledException>(() => cancelled.RunSteps(1, source.Token));
            Equal(3.0, Count(cancelled.Theta));
        }),

        Case("scores are in eval mode without switching", () =>
        {
            var net = nn.Sequential(nn.Linear(4, 3, dtype: float64), nn.Dropout(0.5));
            var x = ones(5, 4, dtype: float64);
            using var solver = new BilevelSolver(
                BilevelProblem.Create(Level.OfModule("net", net, UpdateRule.Sgd(0.1), _ => x, (_, b) => net.call(b).square().mean())),
                new() { Validation = new() { Every = 1, Score = (_, _) => net.call(x).Equals(net.call(x)) && !net.training ? 1 : 0 } });
            Equal(1.0, solver.Step().Score!.Value);
            That(net.training, "back in training mode");
        }),

        Case("policies: stop, skip, so many skipped in a row, back to the last checkpoint", () => InFolder(folder =>
        {
            using (var stop = new BilevelSolver(
                Failing(NonFinitePolicy.Stop, draw => draw.Step == 2), new() { Checkpoint = new() { Folder = folder + "-stop" } }))
            {
                var e = Throws<NonFiniteException>(() => stop.RunSteps(9), "'base'", "step 2");
                Equal(2L, (long)e.Data["Sama.Step"]!);
                Equal(2, Checkpoint.Info((string)e.Data["Sama.Checkpoint"]!).Step);
            }

            using (var skip = new BilevelSolver(Failing(NonFinitePolicy.Skip, draw => draw.Step is 2 or 3)))
            {
                That(skip.RunSteps(5) is { Skipped: null }, "the last one");
                Equal(5, skip.StepsTaken);
            }

            using (var limited = new BilevelSolver(
                Failing(NonFinitePolicy.Skip, draw => draw.Step is 2 or 3), new() { SkipAtMost = 1 }))
                Throws<InvalidOperationException>(() => limited.RunSteps(5), "2 steps in a row", "'base'");

            using var back = new BilevelSolver(
                Failing(NonFinitePolicy.Stop, draw => draw is { Seed: 0, Step: 0 }),
                new() { Rollbacks = 1, Checkpoint = new() { Folder = folder } });
            That(back.Step().Skipped!.Contains("went back to the checkpoint of step 0"), "from the first step on");
            back.RunSteps(3);
            Equal(3, back.StepsTaken);
        })),

        Case("a run that is broken off leaves the checkpoint of its last step: by a callback, or by its consumer", () => InFolder(folder =>
        {
            using (var solver = new BilevelSolver(
                Counting,
                new() { Checkpoint = new() { Folder = folder }, OnStep = step => _ = step.Step == 3 ? throw new IOException("told") : 0 }))
                Throws<IOException>(() => solver.RunSteps(9), "told");
            using (var found = Checkpoint.Latest(folder, Counting)!) Equal(3, found.State.Step);

            using var other = new BilevelSolver(Counting, new() { Checkpoint = new() { Folder = folder + "-async" } });
            Leave(other).Wait();
            using (var found = Checkpoint.Latest(folder + "-async", Counting)!) Equal(2, found.State.Step);
        })),

        Case("an exception of a delegate keeps its type, with the step and the level", () =>
        {
            using var solver = new BilevelSolver(Failing(NonFinitePolicy.Stop, draw => draw.Step == 1 ? throw new TimeoutException("gone") : false));
            var e = Throws<TimeoutException>(() => solver.RunSteps(3), "gone");
            Equal((1L, "base"), ((long)e.Data["Sama.Step"]!, (string)e.Data["Sama.Level"]!));
        }),

        Case("why a level stands still, and which rows are suspicious", () =>
        {
            var problem = BilevelProblem.Create(
                Level.Create("base", [("w", ones(2, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, theta, lambda, _) =>
                    theta["w"].square().sum() * lambda["x"].mean()),
                Level.Create("weights", [("x", ones(4, dtype: float64))], UpdateRule.Sgd(0), _ => 0, (_, theta, _, _) => theta["w"].sum()),
                HypergradientMethod.SamaNa());
            using var start = problem.Start();
            var found = Hypergradient.Explain(problem, start);
            That(found is { Level: "weights", Moved: 0, Length: 4, HypergradientNorm: > 0 }, $"{found}");
            That(found.Findings.Single().Contains("takes no step"), $"{found}");
            That(SuspiciousRows.Lowest([0.5, 0.1, 0.1], 2).Select(row => row.Row).SequenceEqual([1L, 2L]), "ties");
            using var weights = tensor([3f, 1f, 2f]);
            Equal(1L, SuspiciousRows.Lowest(weights, 1)[0].Row);
            Throws<ArgumentException>(() => SuspiciousRows.Lowest([double.NaN], 1), "row 0");
            That(problem.ToString().Contains("level 'weights': 4 parameters"), problem.ToString());
        }),
    ];

    private static async Task Drain(IAsyncEnumerable<BilevelStep> steps)
    {
        await foreach (var _ in steps)
        {
        }
    }

    private static async Task Leave(BilevelSolver solver)
    {
        await foreach (var step in solver.RunAsync(9))
            if (step.Step == 2)
                break;
    }
}
