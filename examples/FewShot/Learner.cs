using Sama;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

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

    public BilevelProblem Problem(long seed)
    {
        var net = ConvNet.Parameters(Options.Width, Options.Ways, seed);
        var length = net.Where(p => Moves(p.Name)).Sum(p => p.Value.numel());
        var rule = UpdateRule.Sgd(Rate);
        if (Name == "metasgd")
            rule = rule.Learning(nameof(SgdOptions.LearningRate), start => start["logRates"].exp());

        var tasks = Enumerable.Range(0, Options.Tasks).Select(i =>
            Level.Create<(Tensor X, Tensor Y)>(
                $"task{i}", net.Where(p => Moves(p.Name)), rule,
                draw => Episode(draw.Seed, draw.Step / Steps, i).Support,
                (_, levels, batch) => Loss(levels[$"task{i}"], levels["start"], batch))
            .ResetTo(levels => Flat(levels["start"])));

        var start = Level.Create<(Tensor X, Tensor Y)[]>(
            "start", Name == "metasgd" ? [.. net, ("logRates", full(length, Math.Log(Rate)))] : net, UpdateRule.Adam(1e-3),
            draw => [.. Enumerable.Range(0, Options.Tasks).Select(i => Episode(draw.Seed, draw.Step, i).Query)],
            (_, levels, batch) => stack(
                [.. batch.Select((query, i) => cross_entropy(Logits(levels[$"task{i}"], levels["start"], query.X), query.Y))]).mean());

        var method = Name switch
        {
            "imaml" => HypergradientMethod.ConjugateGradient(iterations: 5),
            "sama" => HypergradientMethod.Sama(),
            _ => HypergradientMethod.Unrolled(),
        };
        return BilevelProblem.OfTiers([tasks, [start]], method, BilevelOptions.Create(unroll: Steps));

        ((Tensor X, Tensor Y) Support, (Tensor X, Tensor Y) Query) Episode(long runSeed, long window, int task) =>
            global::Episode.Draw(Characters, Options.Ways, Shots, Options.Queries,
                new Draw(seed: runSeed, step: window, stream: task, rank: 0).RandomSeed);
    }

    /// <summary>Accuracy on the query rows of an episode, after its steps from the start.</summary>
    public double Judge(Params start, (Tensor X, Tensor Y) support, (Tensor X, Tensor Y) query)
    {
        using var scope = NewDisposeScope();
        var names = start.Layout.Slices.Select(slice => slice.Name).Where(Moves).ToArray();
        var theta = names.ToDictionary(name => name, name => start[name].detach());
        var rates = Name == "metasgd" ? start["logRates"].exp().split([.. names.Select(name => start[name].numel())]) : null;
        for (var step = 0; step < Steps; step++)
        {
            var leaves = names.Select(name => theta[name].detach().requires_grad_()).ToArray();
            var at = names.Zip(leaves).ToDictionary(pair => pair.First, pair => pair.Second);
            var gradients = autograd.grad([cross_entropy(ConvNet.Logits(At(at), support.X), support.Y)], leaves);
            using var _ = no_grad();
            foreach (var (name, leaf, gradient, i) in names.Select((name, i) => (name, leaves[i], gradients[i], i)))
            {
                var pulled = Proximal ? gradient + Pull * (leaf - start[name]) : gradient;
                theta[name] = leaf - (rates is null ? pulled * Rate : pulled * rates[i].view(leaf.shape));
            }
        }

        using var __ = no_grad();
        return Right(ConvNet.Logits(At(theta), query.X), query.Y);

        Func<string, Tensor> At(Dictionary<string, Tensor> own) => name => own.TryGetValue(name, out var value) ? value : start[name];
    }

    /// <summary>The label of the nearest support row.</summary>
    public static double Pixels((Tensor X, Tensor Y) support, (Tensor X, Tensor Y) query)
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

    Tensor Loss(Params task, Params start, (Tensor X, Tensor Y) batch)
    {
        var loss = cross_entropy(Logits(task, start, batch.X), batch.Y);
        return Proximal ? loss + Pull / 2 * (task.Vector - start.Vector).square().sum() : loss;
    }
}
