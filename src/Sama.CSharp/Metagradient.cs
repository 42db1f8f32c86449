namespace Sama;

/// <summary>Derivatives of the meta loss through a whole training (Engstrom et al., 2025), and how far they can be
/// trusted. Nothing here changes a state.</summary>
public static class Metagradient
{
    /// <summary>dL/dλ and dL/dθ₀ of the meta loss behind a training of so many base steps, λ held at the state's: exactly
    /// through all of them, from a few states, with every step that is taken again held to the bits of the first time.
    /// Weights of examples are entries of λ.</summary>
    /// <param name="problem">A problem of two levels; its method is not used.</param>
    /// <param name="state">Where the training begins.</param>
    /// <param name="steps">T, at least 1.</param>
    /// <param name="memory">States kept in memory beside the one given; with 20 each of 10,000 steps is taken four times at
    /// most.</param>
    /// <param name="folder">A folder of its own for more states: a training that was broken off goes on from what it holds
    /// when it is called again in the same way. Null: none.</param>
    /// <param name="disk">States kept in the folder, at least 1.</param>
    /// <param name="products">How products with second derivatives are formed.</param>
    /// <returns>Loss, derivatives and what they cost; the caller disposes it.</returns>
    /// <exception cref="ArgumentException">A state of another problem, more than two levels, levels that start anew, ranks,
    /// and levels that products of that form cannot serve.</exception>
    /// <exception cref="InvalidOperationException">A step that does not lead to the same bits again, data of a stream, a folder
    /// of another training.</exception>
    /// <exception cref="NonFiniteException">A loss, gradient or update that is not finite.</exception>
    public static MetagradientResult OfTraining(
        BilevelProblem problem,
        RunState state,
        int steps,
        int memory = 20,
        string? folder = null,
        int disk = 20,
        ProductForm products = ProductForm.Default)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        return F.Metagradient.ofTrainingWith(
            new(memory: memory, folder: folder, disk: disk, products: products), problem, state, steps);
    }

    /// <summary>The meta loss behind a training of so many base steps, λ held at the state's: what a metagradient is the
    /// derivative of.</summary>
    /// <param name="problem">A problem of two levels.</param>
    /// <param name="state">Where the training begins.</param>
    /// <param name="steps">T, at least 1.</param>
    /// <returns>The loss.</returns>
    /// <exception cref="ArgumentException">As <see cref="OfTraining"/>.</exception>
    public static double LossOfTraining(BilevelProblem problem, RunState state, int steps)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        return F.Metagradient.lossOfTraining(problem, state, steps);
    }

    /// <summary>λ brought down by whole trainings from a state: quasi-Newton steps (L-BFGS) of the metagradient, each taken
    /// if the training behind it ends with a lower meta loss, else the opposite one or a shorter one. The price is a training a
    /// loss and about five to eight a metagradient, however many numbers λ has.</summary>
    /// <param name="problem">A problem of two levels.</param>
    /// <param name="state">Where the training and λ begin.</param>
    /// <param name="steps">T, at least 1.</param>
    /// <param name="metagradients">At most so many.</param>
    /// <param name="radius">Length of the first step of λ (1: of a log rate, a factor of e); later ones are up to twice as long
    /// each.</param>
    /// <param name="tolerance">Ends where the next step promises less than this part of the loss.</param>
    /// <param name="memory">States kept in memory of each metagradient.</param>
    /// <param name="products">How products with second derivatives are formed.</param>
    /// <returns>λ and what it cost; the caller disposes it.</returns>
    /// <exception cref="ArgumentException">As <see cref="OfTraining"/>, and an option out of range.</exception>
    /// <exception cref="InvalidOperationException">No training near λ is finite.</exception>
    public static DescentResult Descend(
        BilevelProblem problem,
        RunState state,
        int steps,
        int metagradients = 12,
        double radius = 1,
        double tolerance = 1e-3,
        int memory = 20,
        ProductForm products = ProductForm.Default)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        var each = MetagradientOptions.Default;
        return F.Metagradient.descendWith(
            new(
                metagradients: metagradients,
                radius: radius,
                tolerance: tolerance,
                metagradient: new(memory: memory, folder: null, disk: each.Disk, products: products)),
            problem,
            state,
            steps);
    }

    /// <summary>How predictive a metagradient is: the training done again at λ moved against it, by each length, its loss held
    /// against the first order.</summary>
    /// <param name="problem">The problem.</param>
    /// <param name="state">Where the training begins.</param>
    /// <param name="steps">T.</param>
    /// <param name="found">The metagradient there.</param>
    /// <param name="lengths">Lengths of the steps of λ, positive.</param>
    /// <returns>What was predicted and what came of it, for each length.</returns>
    /// <exception cref="InvalidOperationException">A metagradient of 0.</exception>
    public static IReadOnlyList<FiniteStep> Smoothness(
        BilevelProblem problem, RunState state, int steps, MetagradientResult found, params IEnumerable<double> lengths)
    {
        ArgumentNullException.ThrowIfNull(problem);
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(found);
        ArgumentNullException.ThrowIfNull(lengths);
        return [.. F.Metagradient.smoothness(problem, state, steps, found, Interop.Values(lengths))];
    }

    /// <summary>Trains without random parts of the rows; <see cref="Counterfactuals.Lds"/> then tells how well scores of rows
    /// predict the losses.</summary>
    /// <param name="rows">Rows of the training set, at least 2.</param>
    /// <param name="fraction">Part of them that each training leaves out, between 0 and 1.</param>
    /// <param name="subsets">Trainings, at least 2.</param>
    /// <param name="retrain">Trains with the rows for which its argument is true; the meta loss.</param>
    /// <param name="seed">Draws the rows.</param>
    /// <returns>What was left out, and the losses.</returns>
    /// <exception cref="InvalidOperationException">A loss that is not finite.</exception>
    public static Counterfactuals Retrained(
        int rows, double fraction, int subsets, Func<bool[], double> retrain, int seed = 0)
    {
        ArgumentNullException.ThrowIfNull(retrain);
        return F.Metagradient.retrained(rows, fraction, subsets, seed, Interop.Function(retrain));
    }
}
