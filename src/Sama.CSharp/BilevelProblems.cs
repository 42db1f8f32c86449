using Microsoft.FSharp.Collections;

namespace Sama;

/// <summary>Problems, and runs of them as values.</summary>
public static class BilevelProblemExtensions
{
    extension(BilevelProblem)
    {
        /// <summary>A base and a meta level, checked against each other and against the method.</summary>
        /// <param name="baseLevel">What is trained: θ.</param>
        /// <param name="metaLevel">What its training depends on: λ.</param>
        /// <param name="method">How the hypergradient is found.</param>
        /// <param name="unroll">Base steps per meta step, at least 1.</param>
        /// <param name="warmUp">Base steps before the first window that ends with a meta step.</param>
        /// <param name="accumulate">Micro-batches a base step; their draws have steps t·accumulate + i.</param>
        /// <param name="nonFinite">What a run does when a loss, gradient or update is not finite.</param>
        /// <param name="precision">The type in which base and meta passes compute.</param>
        /// <returns>The problem; it owns nothing.</returns>
        /// <exception cref="ArgumentException">Options out of range, levels of one name, or a method that the levels
        /// cannot serve; the message has the reason.</exception>
        public static BilevelProblem Create(
            Level baseLevel,
            Level metaLevel,
            HypergradientMethod method,
            int unroll = 1,
            long warmUp = 0,
            int accumulate = 1,
            NonFinitePolicy nonFinite = NonFinitePolicy.Stop,
            Precision precision = Precision.Own)
        {
            ArgumentNullException.ThrowIfNull(baseLevel);
            ArgumentNullException.ThrowIfNull(metaLevel);
            ArgumentNullException.ThrowIfNull(method);
            return F.Problem.create(
                new(unroll: unroll, warmUp: warmUp, accumulate: accumulate, nonFinite: nonFinite, precision: precision),
                method,
                ListModule.OfSeq([baseLevel, metaLevel]));
        }

        /// <summary>One level alone: plain training, with the same runs, checkpoints and evaluations.</summary>
        /// <param name="level">What is trained; λ of its loss has no parameter.</param>
        /// <param name="accumulate">Micro-batches a step; their draws have steps t·accumulate + i.</param>
        /// <param name="nonFinite">What a run does when a loss, gradient or update is not finite.</param>
        /// <param name="precision">The type in which passes compute.</param>
        /// <returns>The problem; it owns nothing.</returns>
        /// <exception cref="ArgumentException">Options out of range.</exception>
        public static BilevelProblem Create(
            Level level,
            int accumulate = 1,
            NonFinitePolicy nonFinite = NonFinitePolicy.Stop,
            Precision precision = Precision.Own)
        {
            ArgumentNullException.ThrowIfNull(level);
            return F.Problem.create(
                new(unroll: 1, warmUp: 0, accumulate: accumulate, nonFinite: nonFinite, precision: precision),
                F.Hypergradient.samaNa,
                ListModule.OfSeq([level]));
        }

        /// <summary>Levels one above the other, as many as there are.</summary>
        /// <param name="levels">From the lowest up, the last one the meta level; one alone is trained plainly.</param>
        /// <param name="method">How the hypergradients are found, where a level has no method of its own.</param>
        /// <param name="options">How the problem is run; null: <see cref="BilevelOptions.Default"/>.</param>
        /// <returns>The problem; it owns nothing.</returns>
        /// <exception cref="ArgumentException">Options out of range, levels of one name or with a parameter in common, or a
        /// method that the levels cannot serve; the message has the reason.</exception>
        public static BilevelProblem Create(
            IEnumerable<Level> levels, HypergradientMethod method, BilevelOptions? options = null)
        {
            ArgumentNullException.ThrowIfNull(method);
            return F.Problem.create(options ?? BilevelOptions.Default, method, Interop.List(levels, nameof(levels)));
        }

        /// <summary>Tiers of levels: those of one tier step together and do not see each other, such as tasks under one
        /// parent; each sees those of the tiers below and is steered by those above, as far as its loss depends on
        /// them.</summary>
        /// <param name="tiers">From the lowest up.</param>
        /// <param name="method">How the hypergradients are found, where a level has no method of its own.</param>
        /// <param name="options">How the problem is run; null: <see cref="BilevelOptions.Default"/>.</param>
        /// <returns>The problem; it owns nothing.</returns>
        /// <exception cref="ArgumentException">As <c>Create</c>; settings that differ within a tier.</exception>
        public static BilevelProblem OfTiers(
            IEnumerable<IEnumerable<Level>> tiers, HypergradientMethod method, BilevelOptions? options = null)
        {
            ArgumentNullException.ThrowIfNull(tiers);
            ArgumentNullException.ThrowIfNull(method);
            var lists = tiers.Select(tier => Interop.List(tier, nameof(tiers))).ToArray();
            return F.Problem.ofTiers(options ?? BilevelOptions.Default, method, ListModule.OfArray(lists));
        }
    }

    extension(BilevelOptions)
    {
        /// <summary>How a problem is run; what is left out is as in <see cref="BilevelOptions.Default"/>.</summary>
        /// <param name="unroll">Base steps per meta step, at least 1.</param>
        /// <param name="warmUp">Base steps before the first window that ends with a meta step.</param>
        /// <param name="accumulate">Micro-batches a base step; their draws have steps t·accumulate + i.</param>
        /// <param name="nonFinite">What a run does when a loss, gradient or update is not finite.</param>
        /// <param name="precision">The type in which base and meta passes compute.</param>
        /// <returns>The options.</returns>
        public static BilevelOptions Create(
            int unroll = 1,
            long warmUp = 0,
            int accumulate = 1,
            NonFinitePolicy nonFinite = NonFinitePolicy.Stop,
            Precision precision = Precision.Own) =>
            new(unroll: unroll, warmUp: warmUp, accumulate: accumulate, nonFinite: nonFinite, precision: precision);
    }

    extension(BilevelProblem problem)
    {
        /// <summary>The same problem with another method.</summary>
        /// <param name="method">How the hypergradient is found.</param>
        /// <returns>The problem; it owns nothing.</returns>
        /// <exception cref="ArgumentException">A method that the levels cannot serve; the message has the reason.</exception>
        public BilevelProblem WithMethod(HypergradientMethod method)
        {
            ArgumentNullException.ThrowIfNull(method);
            return F.Problem.withMethod(method, NotNull(problem));
        }

        /// <summary>The same problem on ranks, each with its own rows: data picks them by the draw's rank, and a batch of the
        /// problem is that of all ranks together. Every rank makes the same problem; runs of it start from rank 0's
        /// state.</summary>
        /// <param name="ranks">What <see cref="Ranks.Start"/> gave.</param>
        /// <param name="response">Whether the meta gradient is reduced before the response to it is found.</param>
        /// <param name="buffers">What becomes of modules' buffers.</param>
        /// <param name="bucketBytes">Bytes of the base gradient that are reduced together while the backward pass goes on, for
        /// functional models; 0: all behind it; null: 1 MB between hosts, 0 on one.</param>
        /// <param name="shardStates">Each rank has the states of rules of a range of coordinates alone and steps those (ZeRO-1).
        /// Snapshots and checkpoints are whole: every rank takes part in them.</param>
        /// <returns>The problem; it owns nothing.</returns>
        /// <exception cref="ArgumentException">A method that cannot be reduced in that way, or a rule whose state cannot be split,
        /// with the reason; a negative <paramref name="bucketBytes"/>.</exception>
        public BilevelProblem OnRanks(
            Communicator ranks,
            ResponseReduction response = ResponseReduction.Joined,
            RankBuffers buffers = RankBuffers.First,
            long? bucketBytes = null,
            bool shardStates = false)
        {
            ArgumentNullException.ThrowIfNull(ranks);
            var options = new ReductionOptions(
                response: response, buffers: buffers, bucketBytes: bucketBytes, shardStates: shardStates);
            return F.Problem.onRanksWith(options, ranks, NotNull(problem));
        }

        /// <summary>The levels' initial parameters and rule states.</summary>
        /// <param name="seed">Fixes batches and masks.</param>
        /// <returns>The state; the caller disposes it.</returns>
        /// <exception cref="InvalidOperationException">A module whose parameters were replaced, cast, frozen or unfrozen
        /// since its level was made.</exception>
        public RunState Start(long seed = 0) => F.Bilevel.start(seed, NotNull(problem));

        /// <summary>Base steps up to the next meta step, and that one, as a pure function of the state.</summary>
        /// <param name="state">Where it starts; untouched.</param>
        /// <returns>The next state, which the caller disposes, and what each base step did.</returns>
        /// <exception cref="NonFiniteException">A loss, gradient or update that is not finite.</exception>
        public (RunState Next, IReadOnlyList<StepReport> Steps) Step(RunState state)
        {
            ArgumentNullException.ThrowIfNull(state);
            var (next, reports) = F.Bilevel.step(NotNull(problem), state);
            return (next, [.. reports]);
        }

        /// <summary>Base steps alone until ‖u‖ ≤ <paramref name="tolerance"/>: θ*(λ).</summary>
        /// <param name="state">Where it starts; untouched.</param>
        /// <param name="tolerance">Norm of the update at which θ counts as solved.</param>
        /// <param name="maxSteps">Base steps at most.</param>
        /// <returns>The state at the end, which the caller disposes, and a report with ‖u‖ as residual; its
        /// <see cref="Report.EnsureConverged"/> throws if it did not converge.</returns>
        public (RunState Solved, Report Report) Solve(RunState state, double tolerance = 1e-6, int maxSteps = 1000)
        {
            ArgumentNullException.ThrowIfNull(state);
            return F.Bilevel.solve(NotNull(problem), tolerance, maxSteps, state).ToValueTuple();
        }

        /// <summary>The same problem with its parameters on a device; modules are moved themselves, batches
        /// when they are drawn.</summary>
        /// <param name="device">Where to.</param>
        /// <returns>The problem; it owns nothing.</returns>
        public BilevelProblem To(TorchSharp.torch.Device device)
        {
            ArgumentNullException.ThrowIfNull(device);
            return F.Problem.toDevice(device, NotNull(problem));
        }
    }

    extension(RunState state)
    {
        /// <summary>A copy of the state on a device.</summary>
        /// <param name="device">Where to.</param>
        /// <returns>The copy, which the caller disposes.</returns>
        public RunState To(TorchSharp.torch.Device device)
        {
            ArgumentNullException.ThrowIfNull(state);
            ArgumentNullException.ThrowIfNull(device);
            return F.RunState.toDevice(device, state);
        }
    }

    private static BilevelProblem NotNull(BilevelProblem problem)
    {
        ArgumentNullException.ThrowIfNull(problem);
        return problem;
    }
}
