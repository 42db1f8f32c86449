namespace Sama;

/// <summary>States of runs as files: one safetensors file a state, with a checksum of everything, that Python's safetensors
/// reads too.</summary>
public static class Checkpoint
{
    /// <summary>Writes a state: the file is whole or not there, and no second copy of the state is in memory.</summary>
    /// <param name="state">Borrowed.</param>
    /// <param name="path">The file; one that is there is replaced once the new one is on the disk.</param>
    /// <param name="notes">What the file is to say beside the state. Default null: nothing.</param>
    /// <exception cref="ArgumentException">A state that is disposed.</exception>
    /// <exception cref="InvalidOperationException">A state inside a window whose batches come from a stream.</exception>
    /// <exception cref="IOException">From the disk.</exception>
    public static void Save(RunState state, string path, IReadOnlyDictionary<string, string>? notes = null)
    {
        ArgumentNullException.ThrowIfNull(state);
        ArgumentException.ThrowIfNullOrEmpty(path);
        F.Checkpoint.saveWith(notes!, path, state);
    }

    /// <summary>A state of a problem, on its levels' devices; a window's batches are fetched again by their draws.</summary>
    /// <param name="problem">The problem that the state is of.</param>
    /// <param name="path">The file.</param>
    /// <returns>The state; the caller disposes it.</returns>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">The file is damaged, no checkpoint, or of a newer format; file and tensor are
    /// named.</exception>
    /// <exception cref="ArgumentException">A checkpoint of another problem, with what differs.</exception>
    /// <exception cref="InvalidOperationException">An open window's batches are others now.</exception>
    public static RunState Load(BilevelProblem problem, string path)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentException.ThrowIfNullOrEmpty(path);
        return F.Checkpoint.load(problem, path);
    }

    /// <summary>What a checkpoint says beside its tensors, which are not read.</summary>
    /// <param name="path">The file.</param>
    /// <returns>Step, seed, levels, origin, notes.</returns>
    /// <exception cref="InvalidDataException">The file is damaged, no checkpoint, or of a newer format.</exception>
    public static CheckpointInfo Info(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return F.Checkpoint.info(path);
    }

    /// <summary>The newest state of a folder that is whole, with what was wrong with newer ones.</summary>
    /// <param name="folder">Where a run under <see cref="CheckpointOptions"/> wrote.</param>
    /// <param name="problem">The problem that the states are of.</param>
    /// <returns>What was found, which the caller disposes; null if the folder has none.</returns>
    /// <exception cref="InvalidDataException">There are some, and all are damaged.</exception>
    /// <exception cref="ArgumentException">A checkpoint of another problem.</exception>
    public static Resumed? Latest(string folder, BilevelProblem problem)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        ArgumentNullException.ThrowIfNull(problem);
        return F.Resume.latest(folder, problem);
    }
}

/// <summary>Checkpoints that a <see cref="BilevelSolver"/> writes: at steps, where its runs end, by what means they end.</summary>
public sealed record CheckpointOptions
{
    /// <summary>Where they go; made if it is not there. One run a folder.</summary>
    public required string Folder { get; init; }

    /// <summary>Base steps between them. Default 0: only where a run ends, is cancelled or fails.</summary>
    public long Every { get; init; }

    /// <summary>How many stay, at least 1. Default 3.</summary>
    public int Keep { get; init; } = 3;

    /// <summary>Writes the state of the best score beside them, as <c>best.safetensors</c>. Default false.</summary>
    public bool Best { get; init; }

    /// <summary>Starts from the newest whole one, and its best score, if there is one. Default true.</summary>
    public bool Resume { get; init; } = true;
}
