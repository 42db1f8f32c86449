namespace Sama;

/// <summary>Sources of batches for levels.</summary>
public static class Batches
{
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

    /// <summary>The next item of a sequence, such as a <c>DataLoader</c>, at every draw; from its beginning when it has
    /// ended or failed.</summary>
    /// <remarks>The order in which draws are asked for decides, not the draw: a run resumed later sees other batches, and
    /// so does a hypergradient computed twice. Where that matters, pick rows by <see cref="Draw.RandomSeed"/>.</remarks>
    /// <typeparam name="TBatch">A batch.</typeparam>
    /// <param name="batches">Enumerated again and again, on the threads that step; its enumerators are disposed at
    /// their end.</param>
    /// <returns>A source for <c>Level.Create</c> and <c>Level.OfModule</c>.</returns>
    /// <exception cref="InvalidOperationException">Raised by the source if the sequence is empty.</exception>
    public static Func<Draw, TBatch> Stream<TBatch>(IEnumerable<TBatch> batches)
    {
        ArgumentNullException.ThrowIfNull(batches);
        var items = Endless(batches).GetEnumerator();
        return _ =>
        {
            try
            {
                items.MoveNext();
            }
            catch
            {
                // an iterator that failed has ended: the next draw begins anew
                items.Dispose();
                items = Endless(batches).GetEnumerator();
                throw;
            }

            return items.Current;
        };
    }

    private static IEnumerable<TBatch> Endless<TBatch>(IEnumerable<TBatch> batches)
    {
        while (true)
        {
            var empty = true;
            foreach (var batch in batches)
            {
                empty = false;
                yield return batch;
            }

            if (empty) throw new InvalidOperationException("the sequence of batches is empty");
        }
    }
}
