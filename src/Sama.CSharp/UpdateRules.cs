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
            F.SgdRule.sgdWith(new(learningRate: learningRate, momentum: momentum, dampening: dampening, nesterov: nesterov, weightDecay: weightDecay, maximize: maximize));

        /// <summary>Adam (Kingma and Ba, 2015): m and s the averages of g and g², u = lr·m/(c₁(√(s/c₂) + ε)).</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta1">Decay of the first moment, in [0, 1).</param>
        /// <param name="beta2">Decay of the second moment, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="amsGrad">AMSGrad (Reddi et al., 2018): divide by the largest second moment so far.</param>
        /// <param name="correctBeforeMaximum">AMSGrad as in Optax: the maximum is taken over bias-corrected moments.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Adam(
            double learningRate = 1e-3,
            double beta1 = 0.9,
            double beta2 = 0.999,
            double epsilon = 1e-8,
            double weightDecay = 0,
            bool amsGrad = false,
            bool correctBeforeMaximum = false,
            bool maximize = false) =>
            F.AdamRule.adamWith(
                new(learningRate: learningRate, beta1: beta1, beta2: beta2, epsilon: epsilon, weightDecay: weightDecay, decoupledDecay: false, amsGrad: amsGrad, correctBeforeMaximum: correctBeforeMaximum, maximize: maximize));

        /// <summary>AdamW (Loshchilov and Hutter, 2019): Adam with the decay lr·weightDecay·θ beside the gradient.</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta1">Decay of the first moment, in [0, 1).</param>
        /// <param name="beta2">Decay of the second moment, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="weightDecay">Decoupled decay.</param>
        /// <param name="amsGrad">AMSGrad (Reddi et al., 2018): divide by the largest second moment so far.</param>
        /// <param name="correctBeforeMaximum">AMSGrad as in Optax: the maximum is taken over bias-corrected moments.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule AdamW(
            double learningRate = 1e-3,
            double beta1 = 0.9,
            double beta2 = 0.999,
            double epsilon = 1e-8,
            double weightDecay = 1e-2,
            bool amsGrad = false,
            bool correctBeforeMaximum = false,
            bool maximize = false) =>
            F.AdamRule.adamWith(
                new(learningRate: learningRate, beta1: beta1, beta2: beta2, epsilon: epsilon, weightDecay: weightDecay, decoupledDecay: true, amsGrad: amsGrad, correctBeforeMaximum: correctBeforeMaximum, maximize: maximize));

        /// <summary>Adamax (Kingma and Ba, 2015): n ← max(β₂n, |g| + ε), u = lr·m/(c₁n).</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta1">Decay of the first moment, in [0, 1).</param>
        /// <param name="beta2">Decay of the second moment, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Adamax(
            double learningRate = 2e-3,
            double beta1 = 0.9,
            double beta2 = 0.999,
            double epsilon = 1e-8,
            double weightDecay = 0,
            bool maximize = false) =>
            F.AdamVariants.adamaxWith(new(learningRate: learningRate, beta1: beta1, beta2: beta2, epsilon: epsilon, weightDecay: weightDecay, maximize: maximize));

        /// <summary>NAdam (Dozat, 2016): Adam with Nesterov's momentum.</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta1">Decay of the first moment, in [0, 1).</param>
        /// <param name="beta2">Decay of the second moment, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="decoupledDecay">The decay is lr·weightDecay·θ, beside the gradient.</param>
        /// <param name="momentumDecay">ψ of μₜ = β₁(1 − ½·0.96^(tψ)); infinity: μₜ = β₁.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule NAdam(
            double learningRate = 2e-3,
            double beta1 = 0.9,
            double beta2 = 0.999,
            double epsilon = 1e-8,
            double weightDecay = 0,
            bool decoupledDecay = false,
            double momentumDecay = 4e-3,
            bool maximize = false) =>
            F.AdamVariants.nadamWith(
                new(learningRate: learningRate, beta1: beta1, beta2: beta2, epsilon: epsilon, weightDecay: weightDecay, decoupledDecay: decoupledDecay, momentumDecay: momentumDecay, maximize: maximize));

        /// <summary>RAdam (Liu et al., 2020): Adam with its early steps rectified.</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta1">Decay of the first moment, in [0, 1).</param>
        /// <param name="beta2">Decay of the second moment, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="decoupledDecay">The decay is lr·weightDecay·θ, beside the gradient.</param>
        /// <param name="epsilonAfterCorrection">ε is added after the bias correction of the root, as in Optax.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule RAdam(
            double learningRate = 1e-3,
            double beta1 = 0.9,
            double beta2 = 0.999,
            double epsilon = 1e-8,
            double weightDecay = 0,
            bool decoupledDecay = false,
            bool epsilonAfterCorrection = false,
            bool maximize = false) =>
            F.AdamVariants.radamWith(
                new(learningRate: learningRate, beta1: beta1, beta2: beta2, epsilon: epsilon, weightDecay: weightDecay, decoupledDecay: decoupledDecay, epsilonAfterCorrection: epsilonAfterCorrection, maximize: maximize));

        /// <summary>RMSprop: s ← αs + (1−α)g², b ← μb + g/(√s + ε), u = lr·b.</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="alpha">Decay of the second moment, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="momentum">μ, at least 0.</param>
        /// <param name="centered">Divide by the variance instead of the second moment.</param>
        /// <param name="epsilonInsideRoot">√(s + ε), as in Optax.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule RmsProp(
            double learningRate = 1e-2,
            double alpha = 0.99,
            double epsilon = 1e-8,
            double momentum = 0,
            bool centered = false,
            bool epsilonInsideRoot = false,
            double weightDecay = 0,
            bool maximize = false) =>
            F.RmsPropRule.rmspropWith(
                new(learningRate: learningRate, alpha: alpha, epsilon: epsilon, momentum: momentum, centered: centered, epsilonInsideRoot: epsilonInsideRoot, weightDecay: weightDecay, maximize: maximize));

        /// <summary>Adagrad (Duchi et al., 2011): s ← s + g², u = lrₜ·g/(√s + ε).</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="learningRateDecay">The rate at step t is lr/(1 + (t−1)·this).</param>
        /// <param name="initialAccumulator">s before the first step.</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="epsilonInsideRoot">√(s + ε), as in Optax.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Adagrad(
            double learningRate = 1e-2,
            double learningRateDecay = 0,
            double initialAccumulator = 0,
            double epsilon = 1e-10,
            bool epsilonInsideRoot = false,
            double weightDecay = 0,
            bool maximize = false) =>
            F.AdagradRule.adagradWith(
                new(learningRate: learningRate, learningRateDecay: learningRateDecay, initialAccumulator: initialAccumulator, epsilon: epsilon, epsilonInsideRoot: epsilonInsideRoot, weightDecay: weightDecay, maximize: maximize));

        /// <summary>Adadelta (Zeiler, 2012).</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="rho">Decay of both averages, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Adadelta(
            double learningRate = 1,
            double rho = 0.9,
            double epsilon = 1e-6,
            double weightDecay = 0,
            bool maximize = false) =>
            F.AdagradRule.adadeltaWith(new(learningRate: learningRate, rho: rho, epsilon: epsilon, weightDecay: weightDecay, maximize: maximize));

        /// <summary>Lion (Chen et al., 2023): u = lr(sign(β₁m + (1−β₁)g) + weightDecay·θ). Without a surrogate, methods that need an adaptation refuse it.</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta1">Decay of the first moment, in [0, 1).</param>
        /// <param name="beta2">Decay of the momentum, in [0, 1).</param>
        /// <param name="weightDecay">Decoupled decay.</param>
        /// <param name="surrogate">What stands in for the sign's derivative.</param>
        /// <param name="temperature">τ of the smooth surrogate, in units of the gradient.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Lion(
            double learningRate = 1e-4,
            double beta1 = 0.9,
            double beta2 = 0.99,
            double weightDecay = 1e-3,
            SignSurrogate surrogate = SignSurrogate.None,
            double temperature = 1e-3) =>
            F.LionRule.lionWith(new(learningRate: learningRate, beta1: beta1, beta2: beta2, weightDecay: weightDecay, surrogate: surrogate, temperature: temperature));

        /// <summary>Averaged SGD (Polyak and Juditsky, 1992).</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="lambd">Decay term λ.</param>
        /// <param name="alpha">Power of the rate's decay.</param>
        /// <param name="t0">Step from which θ is averaged.</param>
        /// <param name="weightDecay">Coupled decay, added to the gradient.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Asgd(
            double learningRate = 1e-2,
            double lambd = 1e-4,
            double alpha = 0.75,
            double t0 = 1e6,
            double weightDecay = 0,
            bool maximize = false) =>
            F.AsgdRule.asgdWith(new(learningRate: learningRate, lambd: lambd, alpha: alpha, t0: t0, weightDecay: weightDecay, maximize: maximize));

        /// <summary>Adafactor (Shazeer and Stern, 2018): second moments of matrices by their row and column means.</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta2Decay">ρ = t^this: the share of the new square.</param>
        /// <param name="epsilon1">V ≥ ε₁²; null: the machine epsilon of the parameters' type.</param>
        /// <param name="epsilon2">Least root mean square that a parameter is taken to have.</param>
        /// <param name="clippingThreshold">Root mean square above which an update is clipped.</param>
        /// <param name="weightDecay">Decoupled decay.</param>
        /// <param name="maximize">Ascends instead.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Adafactor(
            double learningRate = 1e-2,
            double beta2Decay = -0.8,
            double? epsilon1 = null,
            double epsilon2 = 1e-3,
            double clippingThreshold = 1,
            double weightDecay = 0,
            bool maximize = false) =>
            F.AdafactorRule.adafactorWith(
                new(learningRate: learningRate, beta2Decay: beta2Decay, epsilon1: epsilon1, epsilon2: epsilon2, clippingThreshold: clippingThreshold, weightDecay: weightDecay, maximize: maximize));

        /// <summary>LAMB (You et al., 2020): Adam's direction, by parameter scaled by ‖θ‖/‖direction‖.</summary>
        /// <param name="learningRate">lr, at least 0.</param>
        /// <param name="beta1">Decay of the first moment, in [0, 1).</param>
        /// <param name="beta2">Decay of the second moment, in [0, 1).</param>
        /// <param name="epsilon">ε, at least 0.</param>
        /// <param name="weightDecay">Joins Adam's direction before the trust ratio.</param>
        /// <returns>The rule.</returns>
        /// <exception cref="ArgumentException">An option out of range, by name.</exception>
        public static UpdateRule Lamb(
            double learningRate = 1e-3,
            double beta1 = 0.9,
            double beta2 = 0.999,
            double epsilon = 1e-6,
            double weightDecay = 0) =>
            F.LambRule.lambWith(new(learningRate: learningRate, beta1: beta1, beta2: beta2, epsilon: epsilon, weightDecay: weightDecay));

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
        /// <param name="schedule">Such as <see cref="Schedule.Cosine"/>.</param>
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
