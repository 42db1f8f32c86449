using Sama.Language;
using TorchSharp;
using static Sama.Tests.Check;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>Encoders and tokenizers as C# uses them.</summary>
internal static class LanguageTests
{
    private static EncoderConfig Tiny()
    {
        var folder = Directory.CreateTempSubdirectory("sama-test");
        File.WriteAllText(Path.Combine(folder.FullName, "config.json"), """
            {"model_type": "bert", "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 16, "max_position_embeddings": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            """);
        var config = EncoderConfig.Read(folder.FullName);
        folder.Delete(true);
        return config;
    }

    public static IEnumerable<Test> All =>
    [
        Case("texts, an encoder's adapters and a solver, from C#", async () =>
        {
            var folder = Directory.CreateTempSubdirectory("sama-test");
            File.WriteAllLines(Path.Combine(folder.FullName, "vocab.txt"),
                ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "a", "film", "##s", "!", "?"]);
            using (var fresh = Encoder.Create(Tiny(), Head.None, seed: 1)) fresh.Save(folder.FullName);

            using var tokenizer = Tokenizer.Load(folder.FullName);
            using var whole = Encoder.Load(folder.FullName, labelNames: ["no", "yes"], seed: 2);
            using var model = whole.WithLora(new LoraOptions(rank: 2), seed: 3);
            Equal(2, whole.Report.NewlyInitialised.Count, "a new classifier");
            using var batch = tokenizer.EncodeBatch(["good films!", "a bad film"], maxLength: 6);
            using var labels = tensor(new long[] { 1, 0 });
            using var before = whole.Logits(whole.At(), batch);
            using var same = model.Logits(model.At(), batch);
            Same(before, same, "logits of new adapters");

            var problem = BilevelProblem.Create(
                Level.Create("encoder", model.Parameters, UpdateRule.Adam(1e-2), _ => batch, (pass, theta, lambda, rows) =>
                    (lambda["rows"].sigmoid() * model.Losses(theta, rows, labels, true)).mean()),
                Level.Create("rows", [("rows", zeros(2))], UpdateRule.Adam(1e-2), _ => batch, (pass, theta, _, rows) =>
                    model.Loss(theta, rows, labels, true)),
                HypergradientMethod.Sama());
            await using var solver = new BilevelSolver(problem);
            var losses = new List<double>();
            await foreach (var step in solver.RunAsync(30)) losses.Add(step.Meta!.MetaLoss);
            That(losses[^1] < losses[0], $"the meta loss went from {losses[0]} to {losses[^1]}");

            model.SaveAdapter(Path.Combine(folder.FullName, "adapter"));
            using var again = whole.LoadAdapter(Path.Combine(folder.FullName, "adapter"));
            Same(model.Initial, again.Initial, "adapters written and read");
            folder.Delete(true);
        }),
        Case("mistakes with a folder name it", () =>
        {
            Throws<FileNotFoundException>(() => Encoder.Load("/nowhere"), "/nowhere");
            Throws<FileNotFoundException>(() => Tokenizer.Load("/nowhere"), "/nowhere");
            Refuses<ArgumentException>("config", () => Encoder.Create(new EncoderConfig(
                Family.Bert, 10, 10, 1, 3, 4, 4, 2, Activation.Gelu, 1e-12, 0, 0, null, 0, 0.02, ["a", "b"], null, null), Head.None), "heads");
        }),
    ];
}
