using System.Text;
using System.Text.RegularExpressions;

namespace Sama.Tests;

/// <summary>The fenced code of README.md and docs/*.md. What a page shows in one language is one program, in the page's
/// order: a block goes on from those above it. Errors are told at the page's own lines.</summary>
internal static partial class Snippets
{
    /// <summary>A page and the lines of its program, blank where the page has something else.</summary>
    internal sealed record Page(string File, string[] Lines)
    {
        /// <summary>A name for a class or module.</summary>
        public string Name => Regex.Replace(Path.GetFileNameWithoutExtension(File).ToLowerInvariant(), "[^a-z0-9]", "_");
    }

    /// <summary>README.md and the pages of docs, from the repository's root.</summary>
    public static string[] Files { get; } =
    [
        "README.md",
        .. Directory.GetFiles(Path.Combine(Repository.Root, "docs"), "*.md")
            .Select(file => Path.GetRelativePath(Repository.Root, file)).Order(),
    ];

    /// <summary>The languages of a page's fences.</summary>
    public static HashSet<string> Languages(string file) => [.. Read(file).Select(line => line.Language).OfType<string>()];

    /// <summary>The pages that show a language.</summary>
    public static Page[] Of(string language) =>
    [
        .. Files.Where(file => Languages(file).Contains(language))
            .Select(file => new Page(file, [.. Read(file).Select(line => line.Language == language ? line.Text : "")])),
    ];

    /// <summary>A C# file with the page's program as a method.</summary>
    public static string CSharp(Page page) => File(page, UsingDirective(), line => $"#line {line} \"{page.File}\"",
        $"static class Page_{page.Name}\n{{\npublic static async Task Run()\n{{\nawait Task.CompletedTask;", "", "}\n}");

    /// <summary>An F# file with the page's program as a function.</summary>
    public static string FSharp(Page page) => $"module Page_{page.Name}\n" +
        File(page, OpenDeclaration(), line => $"# {line} \"{page.File}\"", "let run () =", "    ", "    ()");

    /// <summary>Imports stand before the program, each with its own line.</summary>
    private static string File(Page page, Regex import, Func<int, string> at, string head, string indent, string tail)
    {
        var file = new StringBuilder();
        for (var i = 0; i < page.Lines.Length; i++)
            if (import.IsMatch(page.Lines[i])) file.AppendLine(at(i + 1)).AppendLine(page.Lines[i]);
        file.AppendLine(head).AppendLine(at(1));
        foreach (var line in page.Lines) file.Append(indent).AppendLine(import.IsMatch(line) ? "" : line);
        return file.AppendLine(tail).ToString();
    }

    private static IEnumerable<(string? Language, string Text)> Read(string file)
    {
        string? language = null;
        foreach (var line in System.IO.File.ReadLines(Path.Combine(Repository.Root, file)))
        {
            var fence = line.StartsWith("```", StringComparison.Ordinal);
            yield return (fence ? null : language, line);
            if (fence) language = language is null ? line[3..].Trim() : null;
        }
    }

    [GeneratedRegex(@"^using (static )?[A-Z][A-Za-z.]*( = [A-Za-z.]+)?;")]
    private static partial Regex UsingDirective();

    [GeneratedRegex(@"^open (type )?[A-Z]")]
    private static partial Regex OpenDeclaration();
}
