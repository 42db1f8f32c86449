namespace TrainingService;

/// <summary>Section "Training" of the configuration: appsettings.json, then the environment (Training__Steps=100), then
/// the command line (--Training:Steps=100).</summary>
public sealed class TrainingOptions
{
    /// <summary>Where checkpoints go, and the last one is taken up again.</summary>
    public required string Folder { get; set; }

    /// <summary>Base steps of the whole training, restarts included.</summary>
    public int Steps { get; set; } = 2000;

    /// <summary>Base steps between checkpoints; one is written where the run ends in any case.</summary>
    public int CheckpointEvery { get; set; } = 500;

    /// <summary>Fixes data, initial parameters and batches.</summary>
    public long Seed { get; set; }

    /// <summary>Rows with labels that may be wrong.</summary>
    public int Rows { get; set; } = 2000;

    /// <summary>Rows with labels that are right.</summary>
    public int CleanRows { get; set; } = 64;

    /// <summary>Share of the ones that became zeros, in [0, 1).</summary>
    public double Noise { get; set; } = 0.5;

    /// <summary>Rows of a batch.</summary>
    public int BatchSize { get; set; } = 100;

    /// <summary>Base steps a meta step.</summary>
    public int Unroll { get; set; } = 1;

    /// <summary>Rate of the classifier.</summary>
    public double LearningRate { get; set; } = 1e-2;

    /// <summary>Rate of the net that weighs examples.</summary>
    public double MetaLearningRate { get; set; } = 1e-2;
}
