using static TorchSharp.torch;

namespace Sama;

/// <summary>Levels from delegates: over named tensors, or over a module that is trained in place.</summary>
public static class LevelExtensions
{
    extension(Level)
    {
        /// <summary>A level of a two-level problem over named tensors.</summary>
        /// <typeparam name="TBatch">What <paramref name="data"/> hands to <paramref name="loss"/>.</typeparam>
        /// <param name="name">Names the level in messages and in <see cref="Levels"/>.</param>
        /// <param name="parameters">Names and initial values, floating-point, of one dtype and device; borrowed until a
        /// run starts, which copies them.</param>
        /// <param name="rule">How the parameters are updated.</param>
        /// <param name="data">The batch of a draw, a function of the draw alone (seed a generator with
        /// <see cref="Draw.RandomSeed"/>). Tensors it makes die with the step.</param>
        /// <param name="loss">The loss at (pass, θ, λ, batch), one number. A feature that depends on θ and is not
        /// differentiated goes through <see cref="Pass.Stop"/>.</param>
        /// <returns>The level; it owns nothing.</returns>
        /// <exception cref="ArgumentException">A parameter that is null, disposed, given twice, not floating-point, or of
        /// another dtype or device than the first; the message names it.</exception>
        public static Level Create<TBatch>(
            string name,
            IEnumerable<(string Name, Tensor Value)> parameters,
            UpdateRule rule,
            Func<Draw, TBatch> data,
            Func<Pass, Params, Params, TBatch, Tensor> loss)
        {
            Check(name, rule, data, loss);
            var checkedLoss = Interop.Function<Pass, Params, Params, TBatch, Tensor>((pass, theta, lambda, batch) =>
                Interop.Required(loss(pass, theta, lambda, batch), $"the loss of level '{name}'"));
            return F.Level.create(name, Interop.Named(parameters, nameof(parameters)), rule, Interop.Function(data), checkedLoss);
        }

        /// <summary>A level over named tensors whose loss sees the parameters of every level by the level's name.</summary>
        /// <typeparam name="TBatch">What <paramref name="data"/> hands to <paramref name="loss"/>.</typeparam>
        /// <param name="name">Names the level in messages and in <see cref="Levels"/>.</param>
        /// <param name="parameters">Names and initial values, floating-point, of one dtype and device; borrowed until a
        /// run starts, which copies them.</param>
        /// <param name="rule">How the parameters are updated.</param>
        /// <param name="data">The batch of a draw, a function of the draw alone. Tensors it makes die with the step.</param>
        /// <param name="loss">The loss at (pass, levels, batch), one number.</param>
        /// <returns>The level; it owns nothing.</returns>
        /// <exception cref="ArgumentException">A parameter that is null, disposed, given twice, not floating-point, or of
        /// another dtype or device than the first; the message names it.</exception>
        public static Level Create<TBatch>(
            string name,
            IEnumerable<(string Name, Tensor Value)> parameters,
            UpdateRule rule,
            Func<Draw, TBatch> data,
            Func<Pass, Levels, TBatch, Tensor> loss)
        {
            Check(name, rule, data, loss);
            return F.Level.general(name, Interop.Named(parameters, nameof(parameters)), rule, Interop.Function(data), Checked(name, loss));
        }

        /// <summary>A level over a module's trainable parameters, which are aliased: the module itself is trained.</summary>
        /// <remarks>Parameters with <c>requires_grad = false</c> and buffers stay outside; a tied parameter counts once;
        /// <c>train()</c> and <c>eval()</c> are left as they are. Only base passes update buffers.</remarks>
        /// <typeparam name="TBatch">What <paramref name="data"/> hands to <paramref name="loss"/>.</typeparam>
        /// <param name="name">Names the level in messages and in <see cref="Levels"/>.</param>
        /// <param name="module">The module; borrowed, it must outlive the run.</param>
        /// <param name="rule">How the parameters are updated.</param>
        /// <param name="data">The batch of a draw, a function of the draw alone. Tensors it makes die with the step.</param>
        /// <param name="loss">The loss at (pass, batch), one number; it calls the modules, with as many inputs as it
        /// likes.</param>
        /// <returns>The level; it owns nothing.</returns>
        /// <exception cref="ArgumentException">A module without a trainable parameter, or with parameters of several
        /// dtypes or devices.</exception>
        public static Level OfModule<TBatch>(
            string name, nn.Module module, UpdateRule rule, Func<Draw, TBatch> data, Func<Pass, TBatch, Tensor> loss)
        {
            ArgumentNullException.ThrowIfNull(loss);
            return Level.OfModule<TBatch>(name, module, rule, data, (pass, _, batch) => loss(pass, batch));
        }

        /// <summary>A level over a module's trainable parameters whose loss also sees the parameters of every level by the
        /// level's name, for instance those of a meta level over named tensors.</summary>
        /// <typeparam name="TBatch">What <paramref name="data"/> hands to <paramref name="loss"/>.</typeparam>
        /// <param name="name">Names the level in messages and in <see cref="Levels"/>.</param>
        /// <param name="module">The module; borrowed, it must outlive the run, and is trained in place.</param>
        /// <param name="rule">How the parameters are updated.</param>
        /// <param name="data">The batch of a draw, a function of the draw alone. Tensors it makes die with the step.</param>
        /// <param name="loss">The loss at (pass, levels, batch), one number.</param>
        /// <returns>The level; it owns nothing.</returns>
        /// <exception cref="ArgumentException">A module without a trainable parameter, or with parameters of several
        /// dtypes or devices.</exception>
        public static Level OfModule<TBatch>(
            string name, nn.Module module, UpdateRule rule, Func<Draw, TBatch> data, Func<Pass, Levels, TBatch, Tensor> loss)
        {
            ArgumentNullException.ThrowIfNull(module);
            Check(name, rule, data, loss);
            return F.Level.ofModuleGeneral(name, module, rule, Interop.Function(data), Checked(name, loss));
        }
    }

    extension(Level level)
    {
        /// <summary>The level, taking one step every so many steps of the levels below it.</summary>
        /// <param name="steps">At least 1.</param>
        /// <returns>The level.</returns>
        public Level Every(int steps) => F.Level.every(steps, NotNull(level));

        /// <summary>The level, starting with the first window behind so many base steps.</summary>
        /// <param name="baseSteps">At least 0.</param>
        /// <returns>The level.</returns>
        public Level WarmUp(long baseSteps) => F.Level.warmUp(baseSteps, NotNull(level));

        /// <summary>The level, taking only so many steps of each window, the last ones: tasks of unequal length.</summary>
        /// <param name="count">At least 1.</param>
        /// <returns>The level.</returns>
        public Level Steps(int count) => F.Level.steps(count, NotNull(level));

        /// <summary>The level, whose response to those above it is found by that method instead of the problem's.</summary>
        /// <param name="method">The method.</param>
        /// <returns>The level.</returns>
        public Level WithMethod(HypergradientMethod method)
        {
            ArgumentNullException.ThrowIfNull(method);
            return F.Level.withMethod(method, NotNull(level));
        }

        /// <summary>The level, responding to those above it in that way, if it has levels below it.</summary>
        /// <param name="response">In total, or with the levels below held.</param>
        /// <returns>The level.</returns>
        public Level Responding(MiddleResponse response) => F.Level.responding(response, NotNull(level));

        /// <summary>The level, which every window starts anew where <paramref name="start"/> says, with a fresh rule state;
        /// <c>unrolled</c> differentiates through it (MAML).</summary>
        /// <param name="start">A flat vector of the level's length, or a tensor of as many numbers, from the levels above it.</param>
        /// <returns>The level.</returns>
        public Level ResetTo(Func<Levels, Tensor> start)
        {
            ArgumentNullException.ThrowIfNull(start);
            return F.Level.resetTo(Interop.Function(start), NotNull(level));
        }

        /// <summary>The level, with modules that its loss calls beside those of the levels: their buffers are part of a run's
        /// state. Modules that the loss or the data captured, or reads from static fields, are found without it.</summary>
        /// <param name="modules">Such as a frozen encoder in training mode.</param>
        /// <returns>The level.</returns>
        public Level Observing(params IEnumerable<nn.Module> modules)
        {
            ArgumentNullException.ThrowIfNull(level);
            return F.Level.observing(Interop.List(modules, nameof(modules)), level);
        }
    }

    private static Level NotNull(Level level)
    {
        ArgumentNullException.ThrowIfNull(level);
        return level;
    }

    private static void Check(string name, UpdateRule rule, object data, object loss)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        ArgumentNullException.ThrowIfNull(rule);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(loss);
    }

    private static Microsoft.FSharp.Core.FSharpFunc<Pass, Microsoft.FSharp.Core.FSharpFunc<Levels, Microsoft.FSharp.Core.FSharpFunc<TBatch, Tensor>>>
        Checked<TBatch>(string name, Func<Pass, Levels, TBatch, Tensor> loss) =>
        Interop.Function<Pass, Levels, TBatch, Tensor>((pass, levels, batch) =>
            Interop.Required(loss(pass, levels, batch), $"the loss of level '{name}'"));
}
