using Sama;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace TrainingService;

/// <summary>What is trained: a classifier on labels of which many are wrong, and a net that weighs its examples by label
/// and loss, so that it does well on a few clean ones.</summary>
public sealed class NoisyLabels : IDisposable
{
    private readonly Tensor x, labels, flipped;
    private readonly (Tensor X, Tensor Y) clean, test;
    private readonly nn.Module<Tensor, Tensor> classifier, weigh;

    /// <summary>Data and initial parameters, fixed by the seed.</summary>
    public NoisyLabels(TrainingOptions options)
    {
        random.manual_seed(options.Seed);
        (x, var truth) = Sample(options.Rows);
        (clean, test) = (Sample(options.CleanRows), Sample(2000));
        flipped = (truth == 1) & (rand(options.Rows) < options.Noise);
        labels = where(flipped, 0, truth);
        classifier = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2));
        weigh = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid());
        Problem = BilevelProblem.Create(
            Level.OfModule("classifier", classifier, UpdateRule.Adam(options.LearningRate),
                Batches.Shuffled((x, labels), options.BatchSize), (pass, batch) =>
                {
                    var losses = Losses(batch);
                    return (Weights(pass.Stop("losses", losses), batch.Y) * losses).mean();
                }),
            Level.OfModule("weights", weigh, UpdateRule.Adam(options.MetaLearningRate), _ => clean,
                (_, batch) => Losses(batch).mean()),
            HypergradientMethod.Sama(), unroll: options.Unroll);
    }

    /// <summary>The problem; its parameters are this object's.</summary>
    public BilevelProblem Problem { get; }

    /// <summary>Accuracy on rows that training does not see, and mean weights of right and of wrong labels.</summary>
    public IReadOnlyDictionary<string, double> Metrics()
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        var weights = Weights(Losses((x, labels)), labels);
        return new Dictionary<string, double>
        {
            ["accuracy"] = Mean(classifier.call(test.X).argmax(1) == test.Y),
            ["weight of right labels"] = Mean(weights[~flipped]),
            ["weight of wrong labels"] = Mean(weights[flipped]),
        };
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (IDisposable owned in new IDisposable[] { x, labels, flipped, clean.X, clean.Y, test.X, test.Y, classifier, weigh })
            owned.Dispose();
    }

    // two Gaussian classes in 8 dimensions
    private static (Tensor X, Tensor Y) Sample(int count)
    {
        var y = randint(2, count, dtype: int64);
        return (randn(count, 8) + 0.8 * y.unsqueeze(1), y);
    }

    private Tensor Losses((Tensor X, Tensor Y) batch) =>
        cross_entropy(classifier.call(batch.X), batch.Y, reduction: nn.Reduction.None);

    private Tensor Weights(Tensor losses, Tensor y) => weigh.call(stack([losses, y], 1)).squeeze(1);

    private static double Mean(Tensor t) => t.to_type(float64).mean().item<double>();
}
