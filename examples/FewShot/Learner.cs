using Sama;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;
using Rows = (TorchSharp.torch.Tensor X, TorchSharp.torch.Tensor Y);

/// <summary>A way to learn where tasks start from. The tasks are levels side by side, each reset to the level "start" above
/// them at every window.</summary>
sealed record Learner(string Name, Options Options, int Shots, Tensor Characters)
{
    public static readonly string[] Names = ["maml", "metasgd", "anil", "imaml", "sama", "pixels"];

    bool Proximal => Name is "imaml" or "sama";
    bool HeadOnly => Name == "anil";

    /// <summary>SGD steps on a task: five, and 16 where a task is to be solved (Rajeswaran et al., 2019).</summary>
    public int Steps => Proximal ? 16 : 5;

    const double Rate = 0.3;

    // of ½ · Pull ‖θ − start‖²
    const double Pull = 0.1;

    /// <summary>A run that learns the start, from episodes of <see cref="Characters"/>.</summary>
    public BilevelSolver Training(long seed)
    {
        var start = ConvNet.Parameters(Options.Width, Options.Ways, seed);
        var rates = full(start.Where(p => Moves(p.Name)).Sum(p => p.Value.numel()), Math.Log(Rate));
        var problem = Problem(Name == "metasgd" ? [.. start, ("logRates", rates)] : start, Options.Tasks, Steps,
            (draw, task) => Draw(draw.Seed, draw.Step / Steps, task).Support, (draw, task) => Draw(draw.Seed, draw.Step, task).Query);
        return new(problem, new() { Seed = seed });

        (Rows Support, Rows Query) Draw(long runSeed, long window, int task) => Episode.Draw(Characters, Options.Ways, Shots,
            Options.Queries, new Draw(seed: runSeed, step: window, stream: task, rank: 0).RandomSeed);
    }

    /// <summary>Accuracy on the query rows of an episode, after the steps of one task from the start; no meta step is taken.</summary>
    public double Judge(Params start, Rows support, Rows query)
    {
        using var scope = NewDisposeScope();
        var named = start.Layout.Slices.Select(slice => (slice.Name, start[slice.Name]));
        using var solver = new BilevelSolver(Problem([.. named], tasks: 1, unroll: Steps + 1, (_, _) => support, (_, _) => query));
        solver.RunSteps(Steps);
        using var _ = no_grad();
        return Right(Logits(solver.Parameters("task0"), start, query.X), query.Y);
    }

    /// <summary>Tasks side by side, each with its support rows, under the start, which has the query rows of all.</summary>
    BilevelProblem Problem((string Name, Tensor Value)[] start, int tasks, int unroll,
        Func<Draw, int, Rows> support, Func<Draw, int, Rows> query)
    {
        var rule = UpdateRule.Sgd(Rate);
        if (Name == "metasgd")
            rule = rule.Learning(nameof(SgdOptions.LearningRate), levels => levels["logRates"].exp());

        var numbers = Enumerable.Range(0, tasks);
        var below = numbers.Select(i =>
            Level.Create<Rows>($"task{i}", start.Where(p => Moves(p.Name)), rule, draw => support(draw, i),
                (_, levels, batch) => Loss(levels[$"task{i}"], levels["start"], batch))
            .ResetTo(levels => Flat(levels["start"])));
        var above = Level.Create<Rows[]>("start", start, UpdateRule.Adam(1e-3), draw => [.. numbers.Select(i => query(draw, i))],
            (_, levels, batch) => stack(
                [.. batch.Select((rows, i) => cross_entropy(Logits(levels[$"task{i}"], levels["start"], rows.X), rows.Y))]).mean());
        var method = Name switch
        {
            "imaml" => HypergradientMethod.ConjugateGradient(iterations: 5),
            "sama" => HypergradientMethod.Sama(),
            _ => HypergradientMethod.Unrolled(),
        };
        return BilevelProblem.OfTiers([below, [above]], method, BilevelOptions.Create(unroll: unroll));
    }

    /// <summary>The label of the nearest support row.</summary>
    public static double Pixels(Rows support, Rows query)
    {
        using var scope = NewDisposeScope();
        var distances = cdist(query.X.flatten(1), support.X.flatten(1));
        return support.Y.index_select(0, distances.argmin(1)).eq(query.Y).to(float64).mean().item<double>();
    }

    static double Right(Tensor logits, Tensor labels) => logits.argmax(1).eq(labels).to(float64).mean().item<double>();

    bool Moves(string name) => name != "logRates" && (!HeadOnly || ConvNet.OfHead(name));

    Tensor Flat(Params start) =>
        cat([.. start.Layout.Slices.Where(slice => Moves(slice.Name)).Select(slice => start[slice.Name].reshape(-1))]);

    Tensor Logits(Params task, Params start, Tensor x) =>
        ConvNet.Logits(name => HeadOnly && !ConvNet.OfHead(name) ? start[name] : task[name], x);

    Tensor Loss(Params task, Params start, Rows batch)
    {
        var loss = cross_entropy(Logits(task, start, batch.X), batch.Y);
        return Proximal ? loss + Pull / 2 * (task.Vector - start.Vector).square().sum() : loss;
    }
}
