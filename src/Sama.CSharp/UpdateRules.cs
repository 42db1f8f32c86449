namespace Sama;

/// <summary>Update rules, with PyTorch's names and defaults.</summary>
public static partial class UpdateRuleExtensions
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
    }
}
