using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using static Sama.Tests.Check;

namespace Sama.Tests;

/// <summary>The sample worker as a process: what it does when it is told to stop, and when it is started again.</summary>
internal static class TrainingServiceTests
{
    private const int Terminate = 15, Interrupt = 2;

    /// <summary>The worker, its output read line by line.</summary>
    private sealed class Worker : IDisposable
    {
        private readonly Process process;
        private readonly Task<string> error;

        public Worker(string folder, params string[] arguments)
        {
            var start = new ProcessStartInfo("dotnet",
                [Repository.Program("TrainingService"),
                    "--Training:Folder=.", "--Logging:Console:FormatterOptions:SingleLine=true", .. arguments])
            {
                WorkingDirectory = folder,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            };
            process = Process.Start(start)!;
            error = process.StandardError.ReadToEndAsync();
        }

        public int Id => process.Id;

        public List<string> Lines { get; } = [];

        /// <summary>Reads on until a line matches; the match, or null at the end of the output.</summary>
        public Match? Until(string pattern)
        {
            while (process.StandardOutput.ReadLine() is { } line)
            {
                Lines.Add(line);
                if (Regex.Match(line, pattern) is { Success: true } match) return match;
            }

            return null;
        }

        public void Signal(int signal) => That(Kill(process.Id, signal) == 0, "kill failed");

        /// <summary>Reads to the end; the exit code.</summary>
        public int Finish()
        {
            Until("^$ never");
            process.WaitForExit();
            return process.ExitCode;
        }

        public override string ToString() => string.Join('\n', Lines) + (error.IsCompleted ? error.Result : "");

        public void Dispose()
        {
            if (!process.HasExited) process.Kill();
            process.Dispose();
        }
    }

    private static readonly string[] Settings =
        ["--Training:Steps=3000", "--Training:CheckpointEvery=1000", "--Training:Unroll=5", "--Training:Rows=500"];

    [DllImport("libc", EntryPoint = "kill")]
    private static extern int Kill(int process, int signal);

    private static void InFolder(Action<string> body)
    {
        var folder = Directory.CreateTempSubdirectory("sama-worker").FullName;
        try
        {
            body(folder);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Started, and told to stop once it has logged so many steps; the step at which it ended.</summary>
    private static long Stopped(string folder, int signal, long from, long steps)
    {
        using var worker = new Worker(folder, [.. Settings, "--Logging:LogLevel:TrainingService=Debug"]);
        That(worker.Until($"starting at step {from} of") is not null, worker.ToString());
        That(worker.Until($@"step {from + steps}: base loss") is not null, worker.ToString());
        worker.Signal(signal);
        Equal(0, worker.Finish(), "exit code");
        var told = worker.Lines.FindIndex(line => line.Contains("Application is shutting down"));
        var after = worker.Lines.Skip(told).Count(line => Regex.IsMatch(line, "step [0-9]+: base loss"));
        That(told > 0 && after <= 1, $"{after} steps were taken after the signal\n{worker}");
        That(!worker.Lines.Any(line => line.Contains("passed over")), worker.ToString());
        var end = worker.Lines.Select(line => Regex.Match(line, "stopped behind step ([0-9]+)")).Single(match => match.Success);
        return long.Parse(end.Groups[1].Value);
    }

    public static IEnumerable<Test> All =>
    [
        Case("the worker ends within a step of a signal with a whole checkpoint, and goes on from it bit for bit", () => InFolder(folder =>
        {
            var (straight, broken) = (Path.Combine(folder, "straight"), Path.Combine(folder, "broken"));
            Directory.CreateDirectory(straight);
            Directory.CreateDirectory(broken);
            using (var worker = new Worker(straight, Settings)) Equal(0, worker.Finish(), worker.ToString());

            var first = Stopped(broken, Terminate, 0, 100);
            var second = Stopped(broken, Interrupt, first, 101);
            foreach (var step in new[] { first, second })
                Equal(step, Checkpoint.Info(Path.Combine(broken, $"step-{step:D12}.safetensors")).Step, "step of the checkpoint");
            using (var worker = new Worker(broken, Settings))
            {
                That(worker.Until($"starting at step {second} of 3000") is not null, worker.ToString());
                Equal(0, worker.Finish(), worker.ToString());
                That(!worker.Lines.Any(line => line.Contains("passed over")), worker.ToString());
            }

            That(Directory.GetFiles(broken, "*.tmp").Length == 0, "a temporary file is left");
            var name = "step-000000003000.safetensors";
            That(File.ReadAllBytes(Path.Combine(straight, name)).AsSpan().SequenceEqual(File.ReadAllBytes(Path.Combine(broken, name))),
                "the final states differ");
        })),

        Case("the worker says what is wrong with its configuration, and that its training failed", () => InFolder(folder =>
        {
            foreach (var (argument, word) in new[]
                { ("--Training:Stepz=3", "'Stepz'"), ("--Training:Noise=2", "Training:Noise has to be"), ("--Training:Unroll=0", "Unroll (0)") })
            {
                using var worker = new Worker(folder, argument);
                Equal(1, worker.Finish(), argument);
                That(worker.ToString().Contains(word), worker.ToString());
            }
        })),
    ];
}
