using static Sama.Tests.Check;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>Batches by draw, checkpoints of a solver, and going on from them.</summary>
internal static class CheckpointTests
{
    private static void InFolder(Action<string> body)
    {
        var folder = Directory.CreateTempSubdirectory("solver-");
        try
        {
            body(Path.Combine(folder.FullName, "run"));
        }
        finally
        {
            folder.Delete(true);
        }
    }

    private static void SameState(BilevelSolver a, BilevelSolver b)
    {
        Equal(a.StepsTaken, b.StepsTaken, "steps");
        Same(a.Theta["w"], b.Theta["w"], "theta");
        Same(a.Lambda["log"], b.Lambda["log"], "lambda");
    }

    private static Draw At(long step, int rank = 0) => new(3, step, 0, rank);

    /// <summary>A score of the run itself, so that a resumed one meets the same.</summary>
    private static Validation Score(int? patience = null) => new()
    {
        Score = (theta, _) => Math.Sin(40 * theta["w"].sum().item<double>()),
        Every = 2,
        KeepBest = true,
        Patience = patience,
    };

    public static IEnumerable<Test> All =>
    [
        Case("batches of tensors, tuples, lists, names and rows of one's own", () =>
        {
            using var scope = NewDisposeScope();
            var x = arange(20).reshape(10, 2);
            var (a, b) = Batches.Shuffled((x, x * 3), 4)(At(1));
            Same(a * 3, b, "side by side");
            Same(a, Batches.Shuffled(x, 4)(At(1)), "one tensor");
            Same(a, Batches.Shuffled(Batches.Rows(new Dictionary<string, Tensor> { ["x"] = x }), 4)(At(1))["x"], "names");
            Same(a, Batches.Shuffled(Batches.Rows(10, i => x[i], Batches.Stack), 4)(At(1)), "rows");
            Same(a, Batches.Shuffled(Batches.Rows(x, x, x), 4)(At(1)).Z, "three");
            int[] items = [.. Enumerable.Range(0, 10)];
            var listed = Batches.Shuffled(items, 4)(At(1));
            That(a[TensorIndex.Colon, 0].data<long>().SequenceEqual(listed.Select(i => 2L * i)), "list");
            var epoch = Enumerable.Range(0, 3).SelectMany(t => Batches.Shuffled(items, 4, Remainder.Keep)(At(t)));
            That(epoch.Order().SequenceEqual(items), "an epoch is every row");
            var ranks = Enumerable.Range(0, 2).SelectMany(r => Batches.Shuffled(items, 2, ranks: 2)(At(1, r)));
            That(ranks.SequenceEqual(listed), "two ranks of half the size");
            Equal(3, Batches.StepsPerEpoch(10, 4, Remainder.Keep));
            That(Enumerable.Range(0, 3).SelectMany(t => Batches.InOrder(Batches.Rows(items), 4)(At(t))).SequenceEqual(items), "in order");
            var (padded, lengths) = Batches.Pad([ones(2), ones(3)], -1);
            Equal(3, padded.shape[1]);
            Equal(2, lengths[0].item<long>());
            using var ahead = Batches.Prefetched(Batches.Shuffled(x, 4), 2);
            Same(a, ahead.Next(At(1)), "made ahead");
            Throws<ArgumentException>(() => Batches.Shuffled(items, 11), "fill no batch");
        }),

        Case("a solver goes on from its folder bit for bit, patience and best score included", () => InFolder(folder =>
        {
            var problem = Problems.Ridge(unroll: 2, method: HypergradientMethod.Unrolled());
            BilevelSolverOptions Options(string at) => new()
            {
                Seed = 5,
                Checkpoint = new() { Folder = at, Every = 3, Best = true },
                Validation = Score(),
            };
            using var whole = new BilevelSolver(problem, Options(folder + "-whole"));
            whole.RunSteps(15);
            using (var first = new BilevelSolver(problem, Options(folder)))
                for (var i = 0; i < 8; i++) first.Step();
            using var second = new BilevelSolver(problem, Options(folder));
            // best scores are checkpoints too
            That(second.StepsTaken is >= 6 and <= 8, $"resumed at {second.StepsTaken}");
            second.RunSteps((int)(15 - second.StepsTaken));
            SameState(whole, second);
            Equal(whole.BestScore, second.BestScore, "best score");
            using var a = whole.BestState()!;
            using var b = second.BestState()!;
            Same(a.Theta, b.Theta, "best state");
            using var best = Checkpoint.Load(problem, Path.Combine(folder, "best.safetensors"));
            Same(a.Theta, best.Theta, "best file");
        })),

        Case("a run that ends, is cancelled or fails leaves its last good step", () => InFolder(folder =>
        {
            var fails = false;
            var problem = Problems.Ridge(data: draw => fails ? throw new IOException("disk") : Problems.Rows(draw));
            BilevelSolverOptions options = new() { Checkpoint = new() { Folder = folder } };
            using var solver = new BilevelSolver(problem, options);
            long Latest()
            {
                using var found = Checkpoint.Latest(folder, problem)!;
                return found.State.Step;
            }

            That(Checkpoint.Latest(folder, problem) is null, "nothing yet");
            solver.RunSteps(4);
            Equal(4, Latest());
            using (var source = new CancellationTokenSource())
            {
                solver.Step();
                source.Cancel();
                Throws<OperationCanceledException>(() => solver.RunSteps(3, source.Token));
            }

            Equal(5, Latest());
            solver.Step();
            fails = true;
            Throws<IOException>(() => solver.Step(), "disk");
            Equal(6, Latest());
        })),

        Case("what was damaged is passed over and told, notes are kept, another problem is refused", () => InFolder(folder =>
        {
            var problem = Problems.Ridge();
            using (var solver = new BilevelSolver(problem, new() { Checkpoint = new() { Folder = folder, Every = 2 } }))
                solver.RunSteps(4);
            var newest = Directory.GetFiles(folder, "step-*").Order().Last();
            File.WriteAllText(newest, "damaged");
            using var again = new BilevelSolver(problem, new() { Checkpoint = new() { Folder = folder } });
            Equal(2, again.StepsTaken);
            That(again.PassedOver.Single().Contains(newest), again.PassedOver[0]);
            Throws<InvalidDataException>(() => Checkpoint.Load(problem, newest), newest);
            using var state = again.Snapshot();
            Checkpoint.Save(state, newest, new Dictionary<string, string> { ["accuracy"] = "0.9" });
            Equal("0.9", Checkpoint.Info(newest).Notes["accuracy"]);
            Throws<ArgumentException>(
                () => Checkpoint.Load(Problems.Ridge(UpdateRule.Sgd(0.1)), newest), "another problem", "sgd");
        })),

        Case("limits of skipping and ways back", () => InFolder(folder =>
        {
            // the first seed alone meets it
            var problem = Problems.Ridge(data: draw =>
                draw is { Seed: 0, Step: 5, Stream: 0 } ? throw new NonFiniteException(5, "ridge", "the loss") : Problems.Rows(draw));
            using var solver = new BilevelSolver(problem, new() { Rollbacks = 1, Checkpoint = new() { Folder = folder, Every = 2 } });
            List<string> skipped = [];
            while (solver.StepsTaken < 9)
                if (solver.Step().Skipped is { } why) skipped.Add(why);
            That(skipped.Single().Contains("went back to the checkpoint of step 4"), string.Join(' ', skipped));
            Throws<ArgumentException>(() => new BilevelSolver(problem, new() { Rollbacks = 1 }), "Folder");
            Throws<ArgumentException>(() => new BilevelSolver(problem, new() { SkipAtMost = 1 }), "NonFinite");
        })),
    ];
}
