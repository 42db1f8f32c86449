using System.Globalization;

namespace Sama;

/// <summary>The best score so far, its state if that is wanted, and how long ago it was.</summary>
internal sealed class Patience : IDisposable
{
    private int since;

    public Patience(Validation options)
    {
        ArgumentNullException.ThrowIfNull(options.Score, nameof(Validation.Score));
        ArgumentOutOfRangeException.ThrowIfLessThan(options.Every, 1, nameof(Validation.Every));
        ArgumentOutOfRangeException.ThrowIfNegative(options.MinDelta, nameof(Validation.MinDelta));
        if (options.Patience is { } patience)
            ArgumentOutOfRangeException.ThrowIfLessThan(patience, 1, nameof(Validation.Patience));
        Options = options;
    }

    public Validation Options { get; }

    public double? Best { get; private set; }

    public long BestStep { get; private set; }

    public RunState? State { get; private set; }

    public bool Keeps => Options.KeepBest || Options.RestoreBest;

    public bool Exhausted => since >= Options.Patience;

    /// <summary>Takes a score in; NaN never improves.</summary>
    public bool Improves(double score, long step)
    {
        var gain = Options.Maximize ? score - Best : Best - score;
        if (double.IsNaN(score) || gain <= Options.MinDelta)
        {
            since++;
            return false;
        }

        (Best, BestStep, since) = (score, step, 0);
        return true;
    }

    /// <summary>What a checkpoint says of it.</summary>
    public Dictionary<string, string> Notes => Best is { } best
        ? new()
        {
            ["score.best"] = best.ToString("R", CultureInfo.InvariantCulture),
            ["score.step"] = BestStep.ToString(CultureInfo.InvariantCulture),
            ["score.since"] = since.ToString(CultureInfo.InvariantCulture),
        }
        : new() { ["score.since"] = since.ToString(CultureInfo.InvariantCulture) };

    /// <summary>Goes on from what a checkpoint said.</summary>
    public void Resume(IReadOnlyDictionary<string, string> notes)
    {
        if (notes.TryGetValue("score.since", out var count)) since = int.Parse(count, CultureInfo.InvariantCulture);
        if (!notes.TryGetValue("score.best", out var best)) return;
        Best = double.Parse(best, CultureInfo.InvariantCulture);
        BestStep = long.Parse(notes["score.step"], CultureInfo.InvariantCulture);
    }

    public void Keep(RunState state)
    {
        Dispose();
        State = state;
    }

    public void Dispose() => State?.Dispose();
}
