using System.IO.Compression;
using SkiaSharp;
using TorchSharp;
using static TorchSharp.torch;

/// <summary>Drawings of characters, float32 [characters, drawings, 1, 28, 28], ink 1 on 0: of alphabets to train on, and of
/// alphabets that training does not see.</summary>
sealed record Characters(Tensor Training, Tensor Unseen)
{
    const int Size = 28;

    /// <summary>Omniglot's archive, */ALPHABET/CHARACTER/DRAWING.png. The first alphabets by name, until they have a third of
    /// all characters, are the unseen ones. Quarter turns of a character to train on are characters of their own.</summary>
    public static Characters OfZip(string path)
    {
        using var zip = ZipFile.OpenRead(path);
        var alphabets = zip.Entries
            .Where(entry => entry.Name.EndsWith(".png", StringComparison.OrdinalIgnoreCase))
            .OrderBy(entry => entry.FullName, StringComparer.Ordinal)
            .GroupBy(entry => Path.GetDirectoryName(entry.FullName)!)
            .GroupBy(character => Path.GetDirectoryName(character.Key)!)
            .ToArray();
        if (alphabets.Length < 2)
            throw new InvalidDataException($"{path} has {alphabets.Length} alphabets (folders of folders of png files); two are needed");

        var third = alphabets.Sum(alphabet => alphabet.Count()) / 3.0;
        List<Tensor> unseen = [], training = [];
        foreach (var alphabet in alphabets)
            (unseen.Count < third ? unseen : training).AddRange(alphabet.Select(character => stack([.. character.Select(Drawing)])));
        if (unseen.Concat(training).Select(drawings => drawings.shape[0]).Distinct().Count() > 1)
            throw new InvalidDataException($"{path} has characters of unequal numbers of drawings");
        return new(Turned(stack(training)), stack(unseen));
    }

    /// <summary>Characters of five random strokes, each drawn with a shaking hand.</summary>
    public static Characters Generated(int count = 60, int drawings = 20)
    {
        using var generator = new Generator(7);
        var knots = rand(count, 1, 6, 2, generator: generator) * 20 + 4;
        var hands = knots + randn(count, drawings, 6, 2, generator: generator) * 1.2;
        var along = linspace(0, 1, 12).view(1, 1, 1, 12, 1);
        var points = hands[.., .., ..5].unsqueeze(3) * (1 - along) + hands[.., .., 1..].unsqueeze(3) * along;
        var grid = arange(Size).to(float32);
        var offsets = points.reshape(count, drawings, 60, 2, 1) - grid;
        var near = (offsets.square() / -1.5).exp();
        var ink = matmul(near.select(3, 0).transpose(-1, -2), near.select(3, 1)).clamp(0, 1).unsqueeze(2);
        return new(Turned(ink[(count / 3)..]), ink[..(count / 3)]);
    }

    static Tensor Turned(Tensor characters) => cat([.. Enumerable.Range(0, 4).Select(turn => characters.rot90(turn, (3, 4)))]);

    static Tensor Drawing(ZipArchiveEntry entry)
    {
        using var stream = entry.Open();
        using var memory = new MemoryStream();
        stream.CopyTo(memory);
        using var bitmap = SKBitmap.Decode(memory.ToArray()) ?? throw new InvalidDataException($"{entry.FullName} is no image");
        var ink = bitmap.Pixels.Select(pixel => 1 - pixel.Red / 255f).ToArray();
        return nn.functional.adaptive_avg_pool2d(tensor(ink).view(1, bitmap.Height, bitmap.Width), Size);
    }
}

/// <summary>One classification of a few characters: rows to learn it from, and rows to be judged on.</summary>
static class Episode
{
    /// <summary>[ways · shots, 1, 28, 28] and [ways · queries, 1, 28, 28] with their labels, a function of the seed.</summary>
    public static ((Tensor X, Tensor Y) Support, (Tensor X, Tensor Y) Query) Draw(
        Tensor characters, int ways, int shots, int queries, long seed)
    {
        using var generator = new Generator((ulong)seed);
        var chosen = characters.index_select(0, randperm(characters.shape[0], generator: generator)[..ways]);
        var order = rand(ways, chosen.shape[1], generator: generator).argsort(1);
        var rows = stack([.. Enumerable.Range(0, ways).Select(way => chosen[way].index_select(0, order[way]))]);
        return (Labelled(rows[.., ..shots]), Labelled(rows[.., shots..(shots + queries)]));

        (Tensor, Tensor) Labelled(Tensor part) =>
            (part.flatten(0, 1), arange(ways).repeat_interleave(part.shape[1]));
    }
}
