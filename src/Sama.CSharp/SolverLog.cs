using Microsoft.Extensions.Logging;

namespace Sama;

internal static partial class SolverLog
{
    [LoggerMessage(1, LogLevel.Debug, "step {Step}: base loss {BaseLoss}")]
    public static partial void BaseStep(ILogger logger, long step, double baseLoss);

    [LoggerMessage(2, LogLevel.Debug, "step {Step}: base loss {BaseLoss}, meta loss {MetaLoss}, |h| {Norm}")]
    public static partial void MetaStep(ILogger logger, long step, double baseLoss, double metaLoss, double norm);

    [LoggerMessage(3, LogLevel.Information, "step {Step}: score {Score}, improved: {Improved}")]
    public static partial void Scored(ILogger logger, long step, double score, bool improved);

    [LoggerMessage(8, LogLevel.Information, "step {Step}: {Metric} {Value}")]
    public static partial void Measured(ILogger logger, long step, string metric, double value);

    [LoggerMessage(4, LogLevel.Information, "step {Step}: stopped, no better score than {Best} of step {BestStep}")]
    public static partial void Stopped(ILogger logger, long step, double? best, long bestStep);

    public static void Stopped(ILogger logger, long step, Evaluation end) => Stopped(logger, step, end.Best, end.BestStep);

    [LoggerMessage(5, LogLevel.Warning, "step {Step}, level {Level}: {Warning}")]
    public static partial void Warned(ILogger logger, long step, string level, string warning);

    [LoggerMessage(6, LogLevel.Error, "step {Step} failed; the state is the one before it")]
    public static partial void Failed(ILogger logger, long step, Exception error);

    [LoggerMessage(7, LogLevel.Warning, "step {Step} was skipped: {Reason}")]
    public static partial void Skipped(ILogger logger, long step, string reason);

    /// <summary>One step, as it is told everywhere else.</summary>
    public static void Write(ILogger logger, BilevelStep step)
    {
        if (step.Skipped is { } reason)
        {
            Skipped(logger, step.Step, reason);
        }
        else if (step.Meta is { } meta)
        {
            MetaStep(logger, step.Step, step.BaseLoss, meta.MetaLoss, meta.HypergradientNorm);
            foreach (var one in step.Metas)
                foreach (var warning in one.Warnings) Warned(logger, step.Step, one.Level, warning);
        }
        else
        {
            BaseStep(logger, step.Step, step.BaseLoss);
        }

        foreach (var (name, value) in step.Metrics)
            if (name != "score") Measured(logger, step.Step, name, value);
        if (step.Score is { } score) Scored(logger, step.Step, score, step.Improved);
    }
}
