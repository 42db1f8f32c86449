namespace Sama;

/// <summary>Update rules, with PyTorch's names and defaults.</summary>
public static class UpdateRuleExtensions
{
    extension(UpdateRule)
    {
        /// <summary>Stochastic gradient descent: b ← μb + (1 − dampening)g, u = lr·b (Nesterov lr(g + μb)).</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="momentum">μ, at least 0.</param>
        /// <param name="dampening">Takes this share of the gradient out of the momentum.</param>
        /// <param name="nesterov">Nesterov's momentum; needs a momentum and no dampening.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Sgd(
            double learningRate = 1e-3,
            double momentum = 0,
            double dampening = 0,
            bool nesterov = false,
            double weightDecay = 0,
            bool maximize = false) =>
            F.SgdRule.sgdWith(new SgdOptions(learningRate, momentum, dampening, nesterov, weightDecay, maximize));

        /// <summary>Adam (Kingma and Ba, 2015): m and s the averages of g and g², u = lr·m/(c₁(√(s/c₂) + ε)).</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta1">Decay of the first moment, in [0, 1).</param>
        /// <param name="beta2">Decay of the second moment, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Adam(
            double learningRate = 1e-3,
            double beta1 = 0.9,
            double beta2 = 0.999,
            double epsilon = 1e-8,
            double weightDecay = 0,
            bool maximize = false) =>
            F.AdamRule.adamWith(new AdamOptions(learningRate, beta1, beta2, epsilon, weightDecay, false, false, false, maximize));

        /// <summary>AdamW (Loshchilov and Hutter, 2019): Adam with the decay lr·weightDecay·θ beside the gradient.</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta1">Decay of the first moment, in [0, 1).</param>
        /// <param name="beta2">Decay of the second moment, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="weightDecay">Decoupled decay.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule AdamW(
            double learningRate = 1e-3,
            double beta1 = 0.9,
            double beta2 = 0.999,
            double epsilon = 1e-8,
            double weightDecay = 1e-2,
            bool maximize = false) =>
            F.AdamRule.adamWith(new AdamOptions(learningRate, beta1, beta2, epsilon, weightDecay, true, false, false, maximize));

        /// <summary>g·min(1, limit/(‖g‖ + 1e-6)): stands before other rules in a chain.</summary>
        /// <param name="limit">Largest norm, positive.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">A limit that is not positive.</exception>
        public static UpdateRule ClipByGlobalNorm(double limit) => F.Combinators.clipByGlobalNorm(limit);

        /// <summary>The rule with its rate multiplied by schedule(t), t from 0, decoupled decay included.</summary>
        /// <param name="rule">The rule; a chain hands the schedule to its last one.</param>
        /// <param name="schedule">The factor of step t.</param>
        /// <returns>The rule.</returns>
        public static UpdateRule Scheduled(UpdateRule rule, Func<long, double> schedule)
        {
            ArgumentNullException.ThrowIfNull(rule);
            ArgumentNullException.ThrowIfNull(schedule);
            return F.UpdateRule.scheduled(Interop.Function(schedule), rule);
        }

        /// <summary>u = (rₖ ∘ … ∘ r₁) g.</summary>
        /// <param name="rules">From the one that sees the gradient to the one that gives the update.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">No rule.</exception>
        public static UpdateRule Chain(params IEnumerable<UpdateRule> rules) =>
            F.UpdateRule.chain(Interop.List(rules, nameof(rules)));

        /// <summary>Each parameter follows the first rule whose predicate its name satisfies.</summary>
        /// <param name="groups">Predicates on names, and their rules. A parameter in no group and a group without
        /// parameters are refused when a level is made.</param>
        /// <returns>The rule.</returns>
        public static UpdateRule Groups(params IEnumerable<(Func<string, bool> Belongs, UpdateRule Rule)> groups)
        {
            ArgumentNullException.ThrowIfNull(groups);
            var pairs = groups.Select(group => group switch
            {
                (null, _) or (_, null) => throw new ArgumentNullException(nameof(groups), "a group is a predicate and a rule"),
                _ => Tuple.Create(Interop.Function(group.Belongs), group.Rule),
            });
            return F.UpdateRule.groups(Interop.List(pairs, nameof(groups)));
        }

        /// <summary>A rule of one's own, θ ← θ − u, from pure functions of flat vectors.</summary>
        /// <param name="name">Names the rule in messages.</param>
        /// <param name="init">The state at θ, before the first step.</param>
        /// <param name="step">(state, g, θ) ↦ (u, next state); u has g's shape and dtype. Nothing is written in place.</param>
        /// <param name="adapt">(state, g, θ, v) ↦ (∂u/∂g)ᵀ v at the state before the step; null: by automatic
        /// differentiation of <paramref name="step"/>.</param>
        /// <returns>The rule.</returns>
        public static UpdateRule Create(
            string name,
            Func<Tensor, RuleState> init,
            Func<RuleState, Tensor, Tensor, (Tensor Update, RuleState Next)> step,
            Func<RuleState, Tensor, Tensor, Tensor, Tensor>? adapt = null)
        {
            ArgumentException.ThrowIfNullOrEmpty(name);
            ArgumentNullException.ThrowIfNull(init);
            ArgumentNullException.ThrowIfNull(step);

            Tuple<Tensor, RuleState> Step(RuleState state, Tensor g, Tensor theta)
            {
                var (update, next) = step(state, g, theta);
                if (update is null || next is null)
                    throw new InvalidOperationException($"the step of rule '{name}' returned null");
                if (!update.shape.SequenceEqual(g.shape) || update.dtype != g.dtype)
                    throw new InvalidOperationException(
                        $"the step of rule '{name}' returned {update.dtype} [{string.Join('x', update.shape)}], the gradient is {g.dtype} [{string.Join('x', g.shape)}]");
                return Tuple.Create(update, next);
            }

            var rule = F.UpdateRule.create(
                name, Interop.Function(init), Interop.Function<RuleState, Tensor, Tensor, Tuple<Tensor, RuleState>>(Step));
            return adapt is null ? rule : F.UpdateRule.withAdaptation(Interop.Function(adapt), rule);
        }
    }

    extension(RuleState)
    {
        /// <summary>The state of a rule of one's own.</summary>
        /// <param name="count">Steps taken.</param>
        /// <param name="tensors">Named tensors; they belong to the state from now on.</param>
        /// <returns>The state.</returns>
        public static RuleState Create(long count, params IEnumerable<(string Name, Tensor Value)> tensors) =>
            F.RuleState.create(count, Interop.Named(tensors), []);
    }
}
