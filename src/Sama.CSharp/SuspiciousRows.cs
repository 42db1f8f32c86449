using System.Runtime.CompilerServices;
using TorchSharp;

namespace Sama;

/// <summary>Rows that a learned weighting trusts least.</summary>
public static class SuspiciousRows
{
    /// <summary>The rows of lowest weight, the lowest first; of equal weights the lower row first.</summary>
    /// <param name="weights">One number a row, of any floating type and device; borrowed.</param>
    /// <param name="count">How many; all rows if there are no more.</param>
    /// <returns>Rows and weights.</returns>
    /// <exception cref="ArgumentException">A negative count, a tensor of more axes, a weight that is NaN; the message has its
    /// row.</exception>
    public static IReadOnlyList<RowWeight> Lowest(torch.Tensor weights, int count)
    {
        ArgumentNullException.ThrowIfNull(weights);
        return F.SuspiciousRows.lowestOf(count, weights);
    }

    /// <inheritdoc cref="Lowest(torch.Tensor, int)"/>
    [OverloadResolutionPriority(1)] // an array of numbers converts to a tensor too
    public static IReadOnlyList<RowWeight> Lowest(IEnumerable<double> weights, int count)
    {
        ArgumentNullException.ThrowIfNull(weights);
        return F.SuspiciousRows.lowest(count, weights);
    }
}
