using System.Runtime.CompilerServices;

namespace Sama;

/// <summary>Sources of batches for levels. All but <see cref="Stream"/> are functions of the draw alone: a run resumes by
/// the number of its step, and a window's batches can be fetched again.</summary>
public static class Batches
{
    /// <summary>Batches of rows without replacement, in a new order every epoch, which seed, level and epoch fix.</summary>
    /// <typeparam name="TBatch">A batch.</typeparam>
    /// <param name="rows">The rows, as <see cref="Rows(Tensor)"/> and its like make them; borrowed.</param>
    /// <param name="size">Rows of a batch on one rank, at least 1.</param>
    /// <param name="remainder">What becomes of the rows that fill no batch.</param>
    /// <param name="ranks">Processes that share an epoch; each takes its own part of every step's rows.</param>
    /// <returns>A source for <c>Level.Create</c> and <c>Level.OfModule</c>.</returns>
    /// <exception cref="ArgumentException">A size or number of ranks below 1, rows that fill no batch under
    /// <see cref="Remainder.Drop"/>, a rest that cannot be split over the ranks under <see cref="Remainder.Keep"/>.</exception>
    public static Func<Draw, TBatch> Shuffled<TBatch>(
        RowSource<TBatch> rows, int size, Remainder remainder = Remainder.Drop, int ranks = 1) =>
        Of(rows, new Sampling(size, true, remainder, ranks));

    /// <inheritdoc cref="Shuffled{TBatch}(RowSource{TBatch}, int, Remainder, int)"/>
    public static Func<Draw, Tensor> Shuffled(
        Tensor rows, int size, Remainder remainder = Remainder.Drop, int ranks = 1)
    {
        ArgumentNullException.ThrowIfNull(rows);
        return Shuffled(Rows(rows), size, remainder, ranks);
    }

    /// <inheritdoc cref="Shuffled{TBatch}(RowSource{TBatch}, int, Remainder, int)"/>
    public static Func<Draw, (Tensor X, Tensor Y)> Shuffled(
        (Tensor X, Tensor Y) rows, int size, Remainder remainder = Remainder.Drop, int ranks = 1) =>
        Shuffled(Rows(rows.X, rows.Y), size, remainder, ranks);

    /// <inheritdoc cref="Shuffled{TBatch}(RowSource{TBatch}, int, Remainder, int)"/>
    /// <typeparam name="TRow">A row.</typeparam>
    [OverloadResolutionPriority(1)] // an array of numbers converts to a tensor too
    public static Func<Draw, TRow[]> Shuffled<TRow>(
        IReadOnlyList<TRow> rows, int size, Remainder remainder = Remainder.Drop, int ranks = 1)
    {
        ArgumentNullException.ThrowIfNull(rows);
        return Shuffled(Rows(rows), size, remainder, ranks);
    }

    /// <summary>Batches of rows in their order, the last one of an epoch smaller: to evaluate.</summary>
    /// <typeparam name="TBatch">A batch.</typeparam>
    /// <param name="rows">The rows; borrowed.</param>
    /// <param name="size">Rows of a batch, at least 1.</param>
    /// <returns>A source; <see cref="StepsPerEpoch"/> of it are all rows, each once.</returns>
    /// <exception cref="ArgumentException">A size below 1 or no row.</exception>
    public static Func<Draw, TBatch> InOrder<TBatch>(RowSource<TBatch> rows, int size) =>
        Of(rows, new Sampling(size, false, Remainder.Keep, 1));

    /// <summary>Steps of an epoch. Under <see cref="Remainder.Wrap"/>, where it is no whole number, those that begin in it.</summary>
    /// <param name="rows">Rows there are.</param>
    /// <param name="size">Rows of a batch on one rank.</param>
    /// <param name="remainder">What becomes of the rows that fill no batch.</param>
    /// <param name="ranks">Processes that share an epoch.</param>
    /// <returns>Their number.</returns>
    public static long StepsPerEpoch(long rows, int size, Remainder remainder = Remainder.Drop, int ranks = 1) =>
        F.Sampling.stepsPerEpoch(rows, new Sampling(size, true, remainder, ranks));

    /// <summary>The rows of a tensor's first axis.</summary>
    /// <param name="x">Borrowed for as long as batches are drawn; batches lie on its device.</param>
    /// <returns>Rows.</returns>
    /// <exception cref="ArgumentException">A tensor that is one number, or disposed.</exception>
    public static RowSource<Tensor> Rows(Tensor x)
    {
        ArgumentNullException.ThrowIfNull(x);
        return F.Rows.tensor(x);
    }

    /// <summary>Rows of two tensors side by side.</summary>
    /// <param name="x">Borrowed for as long as batches are drawn.</param>
    /// <param name="y">As many rows; borrowed.</param>
    /// <returns>Rows.</returns>
    /// <exception cref="ArgumentException">Tensors of unlike first axes.</exception>
    public static RowSource<(Tensor X, Tensor Y)> Rows(Tensor x, Tensor y)
    {
        ArgumentNullException.ThrowIfNull(x);
        ArgumentNullException.ThrowIfNull(y);
        return Map(F.Rows.pair(x, y), batch => (batch.Item1, batch.Item2));
    }

    /// <summary>Rows of three tensors side by side.</summary>
    /// <param name="x">Borrowed for as long as batches are drawn.</param>
    /// <param name="y">As many rows; borrowed.</param>
    /// <param name="z">As many rows; borrowed.</param>
    /// <returns>Rows.</returns>
    /// <exception cref="ArgumentException">Tensors of unlike first axes.</exception>
    public static RowSource<(Tensor X, Tensor Y, Tensor Z)> Rows(Tensor x, Tensor y, Tensor z)
    {
        ArgumentNullException.ThrowIfNull(x);
        ArgumentNullException.ThrowIfNull(y);
        ArgumentNullException.ThrowIfNull(z);
        return Map(F.Rows.triple(x, y, z), batch => (batch.Item1, batch.Item2, batch.Item3));
    }

    /// <summary>Rows of named tensors side by side.</summary>
    /// <param name="tensors">Borrowed for as long as batches are drawn.</param>
    /// <returns>Rows.</returns>
    /// <exception cref="ArgumentException">No tensor, or tensors of unlike first axes.</exception>
    public static RowSource<IReadOnlyDictionary<string, Tensor>> Rows(IReadOnlyDictionary<string, Tensor> tensors)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        return F.Rows.named(tensors);
    }

    /// <summary>Items of a list or array; a batch is an array of them.</summary>
    /// <typeparam name="TRow">An item.</typeparam>
    /// <param name="items">Borrowed; it must not change while batches are drawn.</param>
    /// <returns>Rows.</returns>
    [OverloadResolutionPriority(1)] // as above
    public static RowSource<TRow[]> Rows<TRow>(IReadOnlyList<TRow> items)
    {
        ArgumentNullException.ThrowIfNull(items);
        return F.Rows.list(items);
    }

    /// <summary>Rows that a function gives one by one, collated to batches.</summary>
    /// <typeparam name="TRow">A row.</typeparam>
    /// <typeparam name="TBatch">A batch.</typeparam>
    /// <param name="count">How many rows there are.</param>
    /// <param name="getRow">A row by its number, a function of it alone; tensors it makes die with the step.</param>
    /// <param name="collate">Makes a batch of rows, as <see cref="Stack"/> and <see cref="Pad"/> do.</param>
    /// <returns>Rows.</returns>
    public static RowSource<TBatch> Rows<TRow, TBatch>(
        long count, Func<long, TRow> getRow, Func<IReadOnlyList<TRow>, TBatch> collate)
    {
        ArgumentNullException.ThrowIfNull(getRow);
        ArgumentNullException.ThrowIfNull(collate);
        return new(count, rows => collate([.. rows.Select(getRow)]));
    }

    /// <summary>Tensors of one shape along a new first axis.</summary>
    /// <param name="rows">At least one; borrowed.</param>
    /// <returns>The batch; the caller's.</returns>
    /// <exception cref="ArgumentException">No row, or rows of unlike shapes; the first of them is named.</exception>
    public static Tensor Stack(IReadOnlyList<Tensor> rows)
    {
        ArgumentNullException.ThrowIfNull(rows);
        return F.Collate.stack(rows);
    }

    /// <summary>Tensors of unlike first axes, each filled behind its end to the longest, along a new first axis.</summary>
    /// <param name="rows">At least one; borrowed.</param>
    /// <param name="value">What they are filled with. Default 0.</param>
    /// <returns>The batch and the rows' own lengths (int64); the caller's.</returns>
    /// <exception cref="ArgumentException">No row, or rows whose other axes differ.</exception>
    public static (Tensor Batch, Tensor Lengths) Pad(IReadOnlyList<Tensor> rows, double value = 0)
    {
        ArgumentNullException.ThrowIfNull(rows);
        var (batch, lengths) = F.Collate.padded(value, rows);
        return (batch, lengths);
    }

    /// <summary>Makes batches ahead on the thread pool; the batches are the same.</summary>
    /// <typeparam name="TBatch">A batch.</typeparam>
    /// <param name="source">A function of the draw alone, such as <c>Shuffled</c> gives; not a stream.</param>
    /// <param name="depth">Batches in memory beside the one that is used, at least 1. Default 2.</param>
    /// <returns>Its <c>Next</c> is the source for a level; the caller disposes it after the run.</returns>
    public static Prefetch<TBatch> Prefetched<TBatch>(Func<Draw, TBatch> source, int depth = 2)
    {
        ArgumentNullException.ThrowIfNull(source);
        return new(source, depth);
    }

    /// <summary>Batch number <c>step mod count</c> of a list: a function of the draw, so that a run can be resumed and a
    /// hypergradient recomputed.</summary>
    /// <typeparam name="TBatch">A batch.</typeparam>
    /// <param name="batches">Batches made beforehand; borrowed for as long as the level is used.</param>
    /// <returns>A source for <c>Level.Create</c> and <c>Level.OfModule</c>.</returns>
    /// <exception cref="ArgumentException">An empty list.</exception>
    public static Func<Draw, TBatch> Cycle<TBatch>(IReadOnlyList<TBatch> batches)
    {
        ArgumentNullException.ThrowIfNull(batches);
        if (batches.Count == 0) throw new ArgumentException("no batch is given", nameof(batches));
        return draw => batches[(int)(draw.Step % batches.Count)];
    }

    /// <summary>The next item of a sequence, such as a <c>DataLoader</c>, at every draw; from its beginning when
    /// it has ended or failed.</summary>
    /// <remarks>What it costs: the order in which draws are asked for decides, not the draw. A run resumed later sees other
    /// batches, and so does a hypergradient computed twice; a window keeps its batches in memory, so that a state inside a
    /// window cannot become a checkpoint. Where that matters, take <c>Shuffled</c>.</remarks>
    /// <typeparam name="TBatch">A batch.</typeparam>
    /// <param name="batches">Enumerated again and again, on the threads that step; its enumerators are disposed at
    /// their end.</param>
    /// <returns>A source for <c>Level.Create</c> and <c>Level.OfModule</c>.</returns>
    /// <exception cref="InvalidOperationException">Raised by the source if the sequence is empty.</exception>
    public static Func<Draw, TBatch> Stream<TBatch>(IEnumerable<TBatch> batches)
    {
        ArgumentNullException.ThrowIfNull(batches);
        return new BatchStream<TBatch>(batches).Next;
    }

    private static RowSource<B> Map<A, B>(RowSource<A> rows, Func<A, B> f) =>
        new(rows.Count, numbers => f(rows.Take(numbers)));

    private static Func<Draw, TBatch> Of<TBatch>(RowSource<TBatch> rows, Sampling sampling)
    {
        ArgumentNullException.ThrowIfNull(rows);
        return F.Batches.create(sampling, rows).Invoke;
    }
}
