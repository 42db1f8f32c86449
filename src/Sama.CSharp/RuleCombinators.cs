namespace Sama;

// what stands before, behind and around rules, and rules of one's own
public static partial class UpdateRuleExtensions
{
    extension(UpdateRule)
    {
        /// <summary>g·min(1, limit/(‖g‖ + slack)): stands before other rules in a chain.</summary>
        /// <param name="limit">Largest norm, positive.</param>
        /// <param name="slack">PyTorch's 1e-6; Optax has none.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule ClipByGlobalNorm(
            double limit,
            double slack = 1e-6) =>
            F.Combinators.clipByGlobalNormWith(slack, limit);

        /// <summary>Each coordinate clipped to [−limit, limit]: stands before other rules in a chain.</summary>
        /// <param name="limit">Largest size, positive.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule ClipByValue(
            double limit) =>
            F.Combinators.clipByValue(limit);

        /// <summary>g + weightDecay·θ: coupled decay before a rule in a chain, which its moments see.</summary>
        /// <param name="weightDecay">At least 0.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule AddDecay(
            double weightDecay) =>
            F.Combinators.addDecay(weightDecay);

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

        /// <summary>By parameter u = g‖θ‖/‖g‖: stands behind other rules in a chain.</summary>
        public static UpdateRule TrustRatio => F.LambRule.trustRatio;

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
                return Tuple.Create(update, next);
            }

            var rule = F.UpdateRule.create(
                name, Interop.Function(init), Interop.Function<RuleState, Tensor, Tensor, Tuple<Tensor, RuleState>>(Step));
            return adapt is null ? rule : F.UpdateRule.withAdaptation(Interop.Function(adapt), rule);
        }
    }

    extension(UpdateRule rule)
    {
        /// <summary>The rule, one of its options learned: an upper level's parameters give its value at every step, and the
        /// derivative ∂u/∂λ joins that level's hypergradient.</summary>
        /// <param name="option">The option's name: a number of the rule that does not start a state or count steps, such as
        /// <c>nameof(AdamOptions.LearningRate)</c>; a combinator's is its parameter's (<c>"limit"</c>).</param>
        /// <param name="value">That level's parameters ↦ one number, one a parameter or one a coordinate (Meta-SGD; the
        /// latter two of elementwise rules). Stays in range by its own form: an exp, a sigmoid.</param>
        /// <param name="level">The level's name; null: the one above.</param>
        /// <returns>The rule. Outside a run it has its fixed number.</returns>
        /// <exception cref="ArgumentException">The rule has no such option, or learns it already; in chains and groups each
        /// rule learns its own.</exception>
        public UpdateRule Learning(string option, Func<Params, Tensor> value, string? level = null)
        {
            ArgumentNullException.ThrowIfNull(rule);
            ArgumentNullException.ThrowIfNull(option);
            ArgumentNullException.ThrowIfNull(value);
            return F.UpdateRule.learningFrom(
                level: level,
                option: option,
                value: Interop.Function<Params, Tensor>(p => Interop.Required(value(p), $"the function of option {option}")),
                rule: rule);
        }

        /// <summary>The rule with its rate multiplied by <c>schedule(t)</c>, t from 0, decoupled decay included.</summary>
        /// <param name="schedule">Such as <see cref="Schedule.Cosine"/>; a factor below 0 or not finite raises
        /// InvalidOperationException at its step.</param>
        /// <returns>The rule.</returns>
        public UpdateRule Scheduled(Func<long, double> schedule)
        {
            ArgumentNullException.ThrowIfNull(schedule);
            return F.UpdateRule.scheduled(Interop.Function(schedule), NotNull(rule));
        }

        /// <summary>The rule at the moving average of the gradients before this step: under
        /// <c>HypergradientMethod.Soba</c> the upper level's in MA-SOBA. No base rule of methods that need an
        /// adaptation.</summary>
        /// <param name="weight">Of a new gradient in the average, above 0 and at most 1.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">A weight out of range.</exception>
        public UpdateRule Averaging(double weight) => F.AveragingRule.averaging(weight, NotNull(rule));

        /// <summary>The rule with the decay rate·weightDecay·θ beside it, in which its moments have no part.</summary>
        /// <param name="rate">The rule's rate.</param>
        /// <param name="weightDecay">At least 0.</param>
        /// <returns>The rule.</returns>
        public UpdateRule WithDecoupledDecay(double rate, double weightDecay) =>
            F.Combinators.decoupledDecay(rate, weightDecay, NotNull(rule));

        /// <summary>The rule that climbs: it sees −g.</summary>
        /// <returns>The rule.</returns>
        public UpdateRule Maximised() => F.Combinators.maximise(NotNull(rule));

        /// <summary>The rule, with the parameters of these names left where they are.</summary>
        /// <param name="names">Names that the level has.</param>
        /// <returns>The rule.</returns>
        public UpdateRule Freezing(params IEnumerable<string> names)
        {
            ArgumentNullException.ThrowIfNull(rule);
            return F.Combinators.freeze(Interop.List(names, nameof(names)), rule);
        }

        /// <summary>The rule's step, then a projection of each parameter in its own shape.</summary>
        /// <param name="projection">A differentiable function of a parameter.</param>
        /// <returns>The rule.</returns>
        public UpdateRule ProjectedOnto(Func<Tensor, Tensor> projection)
        {
            ArgumentNullException.ThrowIfNull(projection);
            return F.Projection.project(Interop.Function(projection), NotNull(rule));
        }

        /// <summary>The rule's step, then every coordinate is moved into [lower, upper].</summary>
        /// <param name="lower">May be minus infinity.</param>
        /// <param name="upper">May be infinity.</param>
        /// <returns>The rule.</returns>
        public UpdateRule InBox(double lower, double upper) =>
            F.Projection.projectBox(lower, upper, NotNull(rule));

        /// <summary>The rule's step, then each parameter is moved to the nearest point of the simplex: coordinates of at least 0 that sum to 1.</summary>
        /// <returns>The rule.</returns>
        public UpdateRule OnSimplex() => F.Projection.projectSimplex(NotNull(rule));
    }

    extension(RuleState)
    {
        /// <summary>The state of a rule of one's own.</summary>
        /// <param name="count">Steps taken.</param>
        /// <param name="tensors">Named tensors; they belong to the state from now on.</param>
        /// <returns>The state.</returns>
        public static RuleState Create(long count, params IEnumerable<(string Name, Tensor Value)> tensors) =>
            F.RuleState.create(count, Interop.Named(tensors, nameof(tensors)), []);
    }

    private static UpdateRule NotNull(UpdateRule rule)
    {
        ArgumentNullException.ThrowIfNull(rule);
        return rule;
    }
}
