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

    public void Keep(RunState state)
    {
        Dispose();
        State = state;
    }

    public void Dispose() => State?.Dispose();
}
