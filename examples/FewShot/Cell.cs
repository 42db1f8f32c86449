using ScottPlot;

/// <summary>What one method did: mean accuracy over unseen episodes and half the width of its 95 % interval; the process's
/// peak while it learned, libtorch's own 250 MB included and what methods before it left (one method a process tells most).</summary>
sealed record Cell(string Method, int Shots, int Seed, double Accuracy, double Interval, double SecondsPerMetaStep, long PeakBytes)
{
    public override string ToString() =>
        $"{Method,-8} {Shots} shots, seed {Seed}: {100 * Accuracy:F1} ± {100 * Interval:F1} %, "
        + $"{1000 * SecondsPerMetaStep:F0} ms and {PeakBytes / 1e6:F0} MB a meta step";

    /// <summary>Bars of the mean over seeds, a group a number of shots.</summary>
    public static void Draw(IEnumerable<Cell> cells, string path)
    {
        var groups = cells.GroupBy(cell => (cell.Shots, cell.Method)).OrderBy(group => group.Key.Shots).ToArray();
        var plot = new Plot();
        plot.Add.Bars((Bar[])[.. groups.Select((group, i) => new Bar
        {
            Position = i,
            Value = 100 * group.Average(cell => cell.Accuracy),
            Error = 100 * group.Average(cell => cell.Interval),
            FillColor = new ScottPlot.Palettes.Category10().GetColor(Array.IndexOf(Learner.Names, group.Key.Method)),
        })]);
        plot.Axes.Bottom.SetTicks(
            [.. groups.Select((_, i) => (double)i)], [.. groups.Select(group => $"{group.Key.Method}\n{group.Key.Shots}-shot")]);
        plot.Axes.SetLimitsY(0, 100);
        plot.YLabel("accuracy on unseen characters, %");
        plot.SavePng(path, 1200, 500);
    }
}

/// <summary>Resident memory of the process, on Linux.</summary>
static class Memory
{
    /// <summary>Starts the peak anew.</summary>
    public static void Reset()
    {
        GC.Collect();
        if (OperatingSystem.IsLinux())
            File.WriteAllText("/proc/self/clear_refs", "5");
    }

    public static long Peak()
    {
        using var process = System.Diagnostics.Process.GetCurrentProcess();
        return process.PeakWorkingSet64;
    }
}
