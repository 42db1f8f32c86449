using System.Diagnostics;
using System.Reflection.PortableExecutable;
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

    private static double[] Numbers(string text, string pattern) =>
        [.. Regex.Matches(text, pattern).Select(m => double.Parse(m.Groups[1].Value))];

    private static readonly Lazy<string> Packages = new(() =>
    {
        Repository.Run(Repository.Root, "./build.sh", "pack");
        return Path.Combine(Repository.Root, "artifacts");
    });

    private const string Project = """
        <Project Sdk="Microsoft.NET.Sdk">
          <PropertyGroup>
            <OutputType>Exe</OutputType>
            <TargetFramework>net10.0</TargetFramework>
            <RuntimeIdentifier>linux-x64</RuntimeIdentifier>
            <SelfContained>false</SelfContained>
            <ImplicitUsings>enable</ImplicitUsings>
            <Nullable>enable</Nullable>
            <CreateHardLinksForCopyFilesToOutputDirectoryIfPossible>true</CreateHardLinksForCopyFilesToOutputDirectoryIfPossible>
            <RestoreAdditionalProjectSources>PACKAGES</RestoreAdditionalProjectSources>
          </PropertyGroup>
          <ItemGroup>
            <PackageReference Include="Sama.CSharp" Version="*" />
            <PackageReference Include="libtorch-cpu-linux-x64" Version="2.10.0" />
          </ItemGroup>
        </Project>
        """;

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

        Case("a newcomer's project outside the repository runs the README's C# example on the packages", () =>
        {
            var readme = File.ReadAllText(Path.Combine(Repository.Root, "README.md"));
            var code = Regex.Match(readme, "```csharp\n(.*?)```", RegexOptions.Singleline).Groups[1].Value;
            var folder = Directory.CreateTempSubdirectory("sama-newcomer").FullName;
            try
            {
                File.WriteAllText(Path.Combine(folder, "Newcomer.csproj"), Project.Replace("PACKAGES", Packages.Value));
                File.WriteAllText(Path.Combine(folder, "Program.cs"), code);
                var output = Repository.Run(folder, "dotnet", "run", "-v", "quiet");
                That(Numbers(output, @"00: base [0-9.]+, meta ([0-9.]+)").Length == 5, output);
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        }),

        Case("the F# script runs on the packages", () =>
        {
            Environment.SetEnvironmentVariable("RestoreAdditionalProjectSources", Packages.Value);
            var output = Repository.Run(Repository.Root, "dotnet", "fsi", "examples/scripts/quickstart.fsx");
            var penalties = Numbers(output, @"(?:matter|others) ([0-9.E+-]+)");
            That(penalties.Length == 2 && penalties[0] < penalties[1], output);
        }),
    ];
}
