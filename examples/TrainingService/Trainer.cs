using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using Sama;

namespace TrainingService;

/// <summary>Trains until its steps are taken, then ends the host. Goes on from the last checkpoint, and writes one when it
/// is told to stop.</summary>
public sealed class Trainer(IOptions<TrainingOptions> options, ILogger<Trainer> logger, IHostApplicationLifetime lifetime)
    : BackgroundService
{
    /// <inheritdoc/>
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        try
        {
            await Train(options.Value);
        }
        catch (Exception error)
        {
            logger.LogCritical(error, "training ended early");
            Environment.ExitCode = 1;
        }

        lifetime.StopApplication();
    }

    private async Task Train(TrainingOptions settings)
    {
        using var task = new NoisyLabels(settings);
        await using var solver = new BilevelSolver(task.Problem, new()
        {
            Seed = settings.Seed,
            Checkpoint = new() { Folder = settings.Folder, Every = settings.CheckpointEvery },
            Validation = new() { Metrics = (_, _) => task.Metrics(), Every = 500 },
            Logger = logger,
        });
        foreach (var damaged in solver.PassedOver) logger.LogWarning("passed over: {Checkpoint}", damaged);
        logger.LogInformation("starting at step {Step} of {Steps}", solver.StepsTaken, settings.Steps);

        try
        {
            // the signal cancels this token before anything else hears of it: one step at most is still taken
            await foreach (var _ in solver.RunAsync(
                Math.Max(0, settings.Steps - (int)solver.StepsTaken), lifetime.ApplicationStopping)) { }
        }
        catch (OperationCanceledException) when (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            logger.LogInformation("stopped behind step {Step}, its state is in {Folder}", solver.StepsTaken, settings.Folder);
            return;
        }

        logger.LogInformation("done: {Metrics}", string.Join(", ", task.Metrics()));
    }
}
