using System.Diagnostics;
using System.Reflection.PortableExecutable;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using static Sama.Tests.Check;

namespace Sama.Tests;

/// <summary>The repository, and processes in it.</summary>
internal static class Repository
{
    /// <summary>The folder of Sama.sln.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>An example, built with the tests.</summary>
    public static string Program(string example) =>
        Path.Combine(Root, "examples", example, "bin", "Release", "net10.0", "linux-x64", $"{example}.dll");

    private static string FindRoot()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Sama.sln"))) folder = Path.GetDirectoryName(folder)!;
        return folder;
    }

    /// <summary>Runs a program to its end; its output, or an exception with it.</summary>
    public static string Run(string folder, string program, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using var process = Process.Start(start)!;
        var error = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        That(process.ExitCode == 0, $"{program} {string.Join(' ', arguments)} ended with {process.ExitCode}:\n{output}\n{error.Result}");
        return output;
    }
}

/// <summary>Examples, packages and a newcomer's first project.</summary>
internal static class RepositoryTests
{
    private static string Example(string name, params string[] arguments) =>
        Repository.Run(Repository.Root, "dotnet", [Repository.Program(name), .. arguments]);

    private static string Script(string name) =>
        Repository.Run(Repository.Root, "dotnet", "run", "-c", "Release", Path.Combine("examples", "scripts", name));

    private static double[] Numbers(string text, string pattern) =>
        [.. Regex.Matches(text, pattern, RegexOptions.Multiline).Select(m => double.Parse(m.Groups[1].Value))];

    private static readonly Lazy<string> Packages = new(() =>
    {
        Repository.Run(Repository.Root, "./build.sh", "pack");
        return Path.Combine(Repository.Root, "artifacts");
    });

    /// <summary>A newcomer's project outside the repository, on the packages: what it prints.</summary>
    private static string Newcomer(string kind, IEnumerable<(string Name, string Text)> files)
    {
        var folder = Directory.CreateTempSubdirectory("sama-newcomer").FullName;
        try
        {
            foreach (var (name, text) in files) File.WriteAllText(Path.Combine(folder, name), text);
            // a glob has no order, and F# has one
            var sources = kind == "fsproj" ? files.Select(file => $"<Compile Include=\"{file.Name}\" />") : [];
            File.WriteAllText(Path.Combine(folder, $"Newcomer.{kind}"), $"""
                <Project Sdk="Microsoft.NET.Sdk">
                  <PropertyGroup>
                    <OutputType>Exe</OutputType>
                    <TargetFramework>net10.0</TargetFramework>
                    <RuntimeIdentifier>linux-x64</RuntimeIdentifier>
                    <SelfContained>false</SelfContained>
                    <ImplicitUsings>enable</ImplicitUsings>
                    <Nullable>{(kind == "csproj" ? "enable" : "disable")}</Nullable>
                    <SatelliteResourceLanguages>en</SatelliteResourceLanguages>
                    <CreateHardLinksForCopyFilesToOutputDirectoryIfPossible>true</CreateHardLinksForCopyFilesToOutputDirectoryIfPossible>
                    <RestoreAdditionalProjectSources>{Packages.Value}</RestoreAdditionalProjectSources>
                  </PropertyGroup>
                  <ItemGroup>
                    <PackageReference Include="Sama.CSharp" Version="*" />
                    <PackageReference Include="libtorch-cpu-linux-x64" Version="2.10.0" />
                    {string.Concat(sources)}
                  </ItemGroup>
                </Project>
                """);
            return Repository.Run(folder, "dotnet", "run", "-v", "quiet");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>The part of an output that a page's program wrote.</summary>
    private static string Output(string all, string file) =>
        Regex.Match(all, $@"== {Regex.Escape(file)}\n(.*?)(?=^== |\z)", RegexOptions.Singleline | RegexOptions.Multiline).Groups[1].Value;

    public static IEnumerable<Test> All =>
    [
        Case("the C# quickstart learns to tell wrong labels", () =>
        {
            var output = Example("QuickstartCSharp");
            var weights = Numbers(output, @"labels ([0-9.]+)");
            That(weights.Length == 2 && weights[0] > weights[1], output);
        }),

        Case("the C# example of cleaning finds flipped labels, with the whole cleaning and with a learner alone", () =>
        {
            var output = Example("CleanLabelsCSharp");
            var aurocs = Numbers(output, @"AUROC ([0-9.]+)");
            That(aurocs.Length == 2 && aurocs.All(auroc => auroc > 0.7), output);
        }),

        Case("one penalty per weight beats a grid of the same budget on the validation set", () =>
        {
            var losses = Numbers(Example("HyperparameterOptimization", "1"), @"(?:grid|learned):.*validation ([0-9.]+)");
            That(losses.Length == 2 && losses[1] < losses[0], string.Join(' ', losses));
        }),

        Case("the architecture search ranks 64 networks, goes on from its report, and refuses what it cannot read", () =>
        {
            var folder = Directory.CreateTempSubdirectory("sama-search").FullName;
            try
            {
                var (report, picture) = (Path.Combine(folder, "r.jsonl"), Path.Combine(folder, "cells.svg"));
                string[] arguments = ["--rows", "100", "--steps", "3", "--report", report, "--picture", picture];
                var output = Example("ArchitectureSearch", arguments);
                var ranks = Numbers(output, @"^. (?:SAMA|T1|first|CG)[^│]*│ ([0-9.]+)");
                That(ranks.Length == 6 && ranks.All(rank => rank is >= 1 and <= 64), output);
                var lines = File.ReadAllLines(report);
                Equal(64 + 6, lines.Length, "trainings and searches");
                That(File.ReadAllText(picture).EndsWith("</svg>", StringComparison.Ordinal), "the picture is no whole SVG");

                // broken off behind 60 trainings: the others are made again, the same but for their time
                File.WriteAllLines(report, lines[..60]);
                Example("ArchitectureSearch", arguments);
                static string[] Timeless(string[] lines) => [.. lines.Select(line => Regex.Replace(line, "\"Seconds\":[^,}]+", ""))];
                That(Timeless(File.ReadAllLines(report)).SequenceEqual(Timeless(lines)), "trainings behind the break differ");

                Throws<Exception>(() => Example("ArchitectureSearch", [.. arguments, "--steps", "4"]), "name another file");
                Throws<Exception>(() => Example("ArchitectureSearch", "--data", folder), "train-images-idx3-ubyte.gz does not exist");
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        }),

        Case("few-shot learning judges on unseen characters, goes on from its report, and refuses what it cannot read", () =>
        {
            var folder = Directory.CreateTempSubdirectory("sama-shots").FullName;
            try
            {
                var (report, picture) = (Path.Combine(folder, "r.jsonl"), Path.Combine(folder, "bars.png"));
                string[] arguments = ["--width", "16", "--tasks", "2", "--queries", "2", "--metasteps", "1", "--episodes", "5", "--shots", "1",
                    "--report", report, "--picture", picture];
                var output = Example("FewShot", arguments);
                var accuracies = Numbers(output, @"^. \w+ +│ 1 +│ 1 +│ ([0-9.]+)");
                That(accuracies.Length == 6 && accuracies.All(accuracy => accuracy is >= 0 and <= 100), output);
                That(new FileInfo(picture).Length > 1000, "there is no picture");

                // broken off behind two methods: the others are judged again, the same but for time and memory
                var lines = File.ReadAllLines(report);
                File.WriteAllLines(report, lines[..2]);
                Example("FewShot", arguments);
                static string[] Timeless(string[] lines) => [.. lines.Select(line => Regex.Replace(line, "\"Seconds.*", ""))];
                That(Timeless(File.ReadAllLines(report)).SequenceEqual(Timeless(lines)), "methods behind the break differ");

                Throws<Exception>(() => Example("FewShot", [.. arguments, "--ways", "3"]), "name another file");
                Throws<Exception>(() => Example("FewShot", "--methods", "none"), "no method is named 'none'");
                Throws<Exception>(() => Example("FewShot", "--shot", "1"), "ended with 2");
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        }),

        Case("continued pretraining weighs four tasks, goes on from its report, and refuses what it cannot read", () =>
        {
            var folder = Directory.CreateTempSubdirectory("sama-tasks").FullName;
            try
            {
                var (report, picture) = (Path.Combine(folder, "r.jsonl"), Path.Combine(folder, "weights.svg"));
                string[] arguments = ["--steps", "12", "--seeds", "0,1", "--report", report, "--picture", picture];
                var output = Example("ContinuedPretraining", arguments);
                var scores = Numbers(output, @"^. (?:end|domain|all)[^│]*│ 2 +│ ([0-9.]+)");
                That(scores.Length == 6 && scores.All(score => score is > 0 and <= 1), output);
                var lines = File.ReadAllLines(report);
                Equal(6 * 2, lines.Length, "trainings");
                That(File.ReadAllText(picture).Contains("</svg>"), "the picture is no whole SVG");

                // equal at the start and learned afterwards, but for the end task's own
                foreach (var line in lines.Where(line => line.Contains("SAMA")))
                {
                    var weights = JsonNode.Parse(line)!["Found"]!["Weights"]!.AsArray().Select(step => step!.AsArray().Select(w => (double)w!).ToArray()).ToArray();
                    Equal(12, weights.Length, "steps");
                    That(weights.All(step => step[0] == 1) && weights[0][1..].All(w => w == 0.5), line);
                    That(weights[^1][1..].Any(w => w != 0.5) && weights[^1][1..].All(w => w is > 0 and < 1), line);
                }

                // broken off behind 7 trainings: the others are made again, the same but for time and memory
                File.WriteAllLines(report, lines[..7]);
                Example("ContinuedPretraining", arguments);
                static string[] Timeless(string[] lines) => [.. lines.Select(line => Regex.Replace(line, "\"Seconds\".*", ""))];
                That(Timeless(File.ReadAllLines(report)).SequenceEqual(Timeless(lines)), "trainings behind the break differ");

                Throws<Exception>(() => Example("ContinuedPretraining", [.. arguments, "--rate", "1e-4"]), "name another file");
                Throws<Exception>(() => Example("ContinuedPretraining", "--data", folder), "ended with 2");
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        }),

        Case("packages have readme, licence, documentation and symbols", () =>
        {
            foreach (var name in new[] { "Sama.Functional", "Sama.CSharp" })
            {
                var package = Directory.GetFiles(Packages.Value, $"{name}.*.nupkg").Single();
                using var zip = System.IO.Compression.ZipFile.OpenRead(package);
                var entries = zip.Entries.Select(e => e.FullName).ToHashSet();
                foreach (var entry in new[] { "README.md", "LICENSE", $"lib/net10.0/{name}.dll", $"lib/net10.0/{name}.xml" })
                    That(entries.Contains(entry), $"{entry} is not in {package}: {string.Join(' ', entries)}");
                using var spec = new StreamReader(zip.GetEntry($"{name}.nuspec")!.Open());
                That(spec.ReadToEnd().Contains("<license type=\"expression\">Apache-2.0"), "licence");
                using var library = new MemoryStream();
                using (var entry = zip.GetEntry($"lib/net10.0/{name}.dll")!.Open()) entry.CopyTo(library);
                library.Position = 0;
                using var reader = new PEReader(library);
                That(reader.ReadDebugDirectory().Any(d => d.Type == DebugDirectoryEntryType.EmbeddedPortablePdb), "symbols");
            }
        }),

        Case("a newcomer's project outside the repository runs the C# of README and docs on the packages", () =>
        {
            var pages = Snippets.Of("csharp");
            var calls = pages.Select(page => $"Console.WriteLine(\"== {page.File}\");\nawait Page_{page.Name}.Run();\n");
            var output = Newcomer("csproj", [
                .. pages.Select(page => ($"{page.Name}.cs", Snippets.CSharp(page))), ("Program.cs", string.Concat(calls))]);
            That(Numbers(Output(output, "README.md"), @"00: base [0-9.]+, meta ([0-9.]+)").Length == 5, output);
        }),

        Case("a newcomer's project outside the repository runs the F# of README and docs on the packages", () =>
        {
            var pages = Snippets.Of("fsharp");
            var calls = pages.Select(page => $"    printfn \"== {page.File}\"\n    Page_{page.Name}.run ()\n");
            var output = Newcomer("fsproj", [
                .. pages.Select(page => ($"{page.Name}.fs", Snippets.FSharp(page))),
                ("program.fs", $"module Program\n\n[<EntryPoint>]\nlet main _ =\n{string.Concat(calls)}    0\n")]);
            That(Numbers(Output(output, "README.md"), @"^[0-9]+ ([0-9.]+)").Length == 20, output);
        }),

        Case("fenced code is in a language that is compiled, and guides show C# beside F#", () =>
        {
            foreach (var file in Snippets.Files)
            {
                var languages = Snippets.Languages(file);
                That(languages.IsSubsetOf(["csharp", "fsharp", "bash", "json", "text"]), $"{file}: {string.Join(' ', languages)}");
            }

            foreach (var guide in new[] { "training", "choosing", "debugging", "passes" })
                That(Snippets.Languages($"docs/{guide}.md").IsSupersetOf(["csharp", "fsharp"]), guide);
        }),

        Case("README is short, and every link of README and docs leads to a file", () =>
        {
            That(File.ReadAllLines(Path.Combine(Repository.Root, "README.md")).Length < 150, "README.md has 150 lines or more");
            foreach (var file in Snippets.Files)
                foreach (Match link in Regex.Matches(File.ReadAllText(Path.Combine(Repository.Root, file)), @"\]\((?!https?:)([^)#]+)"))
                    That(Path.Exists(Path.Combine(Repository.Root, Path.GetDirectoryName(file)!, link.Groups[1].Value)),
                        $"{file} links to {link.Groups[1].Value}");
        }),

        Case("the programs of one file run in the repository", () =>
        {
            var weights = Numbers(Script("quickstart.cs"), "labels ([0-9.]+)");
            That(weights.Length == 2 && weights[0] > 2 * weights[1], string.Join(' ', weights));
            var penalties = Numbers(Script("hyperparameters.cs"), "(?:matter|others) ([0-9.E+-]+)");
            That(penalties.Length == 2 && penalties[0] < penalties[1], string.Join(' ', penalties));
            // the tables of docs/choosing.md take minutes: compiled alone
            Repository.Run(Repository.Root, "dotnet", "build", "-c", "Release", Path.Combine("examples", "scripts", "choosing.cs"));
        }),

        Case("a program of one file runs outside the repository as its head says", () =>
        {
            var lines = File.ReadAllLines(Path.Combine(Repository.Root, "examples", "scripts", "quickstart.cs"));
            var elsewhere = lines.Where(line => line.StartsWith("//   #:", StringComparison.Ordinal))
                .Select(line => line[5..].Replace("/path/to/artifacts", Packages.Value));
            var folder = Directory.CreateTempSubdirectory("sama-script").FullName;
            try
            {
                File.WriteAllLines(Path.Combine(folder, "quickstart.cs"),
                    lines.SelectMany(line => line.StartsWith("#:project", StringComparison.Ordinal) ? elsewhere : [line]));
                That(Numbers(Repository.Run(folder, "dotnet", "run", "quickstart.cs"), "labels ([0-9.]+)").Length == 2, "no weights");
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        }),

        Case("the F# scripts run on the packages", () =>
        {
            Environment.SetEnvironmentVariable("RestoreAdditionalProjectSources", Packages.Value);
            var output = Repository.Run(Repository.Root, "dotnet", "fsi", "examples/scripts/quickstart.fsx");
            var penalties = Numbers(output, @"(?:matter|others) ([0-9.E+-]+)");
            That(penalties.Length == 2 && penalties[0] < penalties[1], output);

            output = Repository.Run(Repository.Root, "dotnet", "fsi", "examples/scripts/hyperparameters.fsx", "--trainings", "4", "--steps", "60");
            Equal(10, Numbers(output, @"^\| [^|]+ \| ([0-9.]+) %").Length, output);
            var losses = Numbers(output, @"^\| (?:usual values|SAMA, a decay a weight) \|[^|]+\| ([0-9.]+)");
            That(losses.Length == 2 && losses[1] < losses[0], output);
        }),
    ];
}
