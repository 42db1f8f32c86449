using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

/// <summary>The four-layer net of few-shot learning (Vinyals et al., Matching Networks, 2016): 3 x 3 convolutions, batch norm
/// by the batch's own statistics, ReLU, 2 x 2 pooling; a linear head.</summary>
static class ConvNet
{
    const int Layers = 4;

    public static bool OfHead(string name) => name.StartsWith("head");

    public static (string Name, Tensor Value)[] Parameters(int width, int ways, long seed)
    {
        using var generator = new Generator((ulong)seed);
        Tensor Normal(double scale, params long[] shape) => randn(shape, generator: generator) * scale;
        return
        [
            .. Enumerable.Range(0, Layers).SelectMany(i => new (string, Tensor)[]
            {
                ($"conv{i}", Normal(Math.Sqrt(2.0 / (9 * (i == 0 ? 1 : width))), width, i == 0 ? 1 : width, 3, 3)),
                ($"norm{i}.weight", ones(width)),
                ($"norm{i}.bias", zeros(width)),
            }),
            ("head.weight", Normal(Math.Sqrt(1.0 / width), ways, width)),
            ("head.bias", zeros(ways)),
        ];
    }

    /// <summary>[rows, 1, 28, 28] to logits [rows, ways].</summary>
    public static Tensor Logits(Func<string, Tensor> p, Tensor x)
    {
        for (var i = 0; i < Layers; i++)
        {
            var h = conv2d(x, p($"conv{i}"), padding: [1, 1]);
            var centred = h - h.mean([0, 2, 3], keepdim: true);
            var scale = (centred.square().mean([0, 2, 3], keepdim: true) + 1e-5).rsqrt();
            h = centred * scale * p($"norm{i}.weight").view(1, -1, 1, 1) + p($"norm{i}.bias").view(1, -1, 1, 1);
            x = max_pool2d(relu(h), 2);
        }

        return linear(x.flatten(1), p("head.weight"), p("head.bias"));
    }
}
