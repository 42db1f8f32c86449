using ScottPlot;
using Sama;

/// <summary>What one method did: mean accuracy over unseen episodes and half the width of its 95 % interval; processor time of
/// a meta step, and the process's peak while it learned, with libtorch's own 250 MB and what methods before it left.</summary>
sealed record Cell(string Method, int Shots, int Seed, double Accuracy, double Interval, double SecondsPerMetaStep, long PeakMegabytes)
{
    /// <summary>A table, and bars where a path is given, of means over seeds.</summary>
    public static void Show(IReadOnlyList<Cell> cells, string? path)
    {
        var groups = cells.GroupBy(cell => (cell.Shots, cell.Method)).OrderBy(group => group.Key.Shots).ToArray();
        Shown.Table(
            ["method", "shots", "seeds", "accuracy, %", "± of 600 episodes", "ms a meta step", "MB"],
            groups.Select(own => (string[])[own.Key.Method, $"{own.Key.Shots}", $"{own.Count()}",
                Shown.Spread("F1", [.. own.Select(cell => 100 * cell.Accuracy)]), $"{own.Average(cell => 100 * cell.Interval):F1}",
                $"{own.Average(cell => 1000 * cell.SecondsPerMetaStep):F0}", $"{own.Max(cell => cell.PeakMegabytes)}"]));
        if (path is null)
            return;

        using var plot = new Plot();
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
