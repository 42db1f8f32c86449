using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
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

        // where its parent ignores SIGINT, so does the worker: it must not run for ever
        private readonly Timer limit;

        public Worker(string folder, string[] arguments, string? collector = null)
        {
            var start = new ProcessStartInfo("dotnet",
                [Repository.Program("TrainingService"),
                    "--Training:Folder=.", "--Logging:Console:FormatterOptions:SingleLine=true", .. arguments])
            {
                WorkingDirectory = folder,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            };
            if (collector is not null)
            {
                start.Environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector;
                start.Environment["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf";
            }

            process = Process.Start(start)!;
            error = process.StandardError.ReadToEndAsync();
            limit = new(_ => process.Kill(), null, TimeSpan.FromMinutes(10), Timeout.InfiniteTimeSpan);
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
            limit.Dispose();
            if (!process.HasExited) process.Kill();
            process.Dispose();
        }
    }

    /// <summary>Takes what OpenTelemetry's protocol sends over HTTP.</summary>
    private sealed class Collector : IDisposable
    {
        private readonly HttpListener listener = new();
        private readonly ConcurrentDictionary<string, string> bodies = new();
        private readonly Task serving;

        public Collector()
        {
            using (var probe = new TcpListener(IPAddress.Loopback, 0))
            {
                probe.Start();
                Address = $"http://127.0.0.1:{((IPEndPoint)probe.LocalEndpoint).Port}";
            }

            listener.Prefixes.Add(Address + "/");
            listener.Start();
            serving = Serve();
        }

        public string Address { get; }

        /// <summary>All bodies of a path, one character a byte.</summary>
        public string Got(string path) => bodies.GetValueOrDefault(path, "");

        public void Dispose()
        {
            listener.Close();
            serving.GetAwaiter().GetResult();
        }

        private async Task Serve()
        {
            try
            {
                while (true)
                {
                    var context = await listener.GetContextAsync();
                    using var reader = new StreamReader(context.Request.InputStream, Encoding.Latin1);
                    var body = await reader.ReadToEndAsync();
                    bodies.AddOrUpdate(context.Request.Url!.AbsolutePath, body, (_, before) => before + body);
                    context.Response.ContentType = "application/x-protobuf";
                    context.Response.Close();
                }
            }
            catch (Exception e) when (e is HttpListenerException or ObjectDisposedException)
            {
                // closed
            }
        }
    }

    private static readonly string[] Settings =
        ["--Training:CheckpointEvery=1000000", "--Training:Unroll=5", "--Training:Rows=500"];

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
        using var worker = new Worker(folder, [.. Settings, "--Training:Steps=10000000", "--Logging:LogLevel:TrainingService=Debug"]);
        That(worker.Until($"starting at step {from} of") is not null, worker.ToString());
        That(worker.Until($@"step {from + steps}: base loss") is not null, worker.ToString());
        worker.Signal(signal);
        Equal(0, worker.Finish(), "exit code");
        var told = worker.Lines.FindIndex(line => line.Contains("Application is shutting down"));
        var after = worker.Lines.Skip(told).Count(line => Regex.IsMatch(line, "step [0-9]+: base loss"));
        That(told > 0 && after <= 1, $"{after} steps were taken after the signal\n{worker}");
        That(!worker.Lines.Any(line => line.Contains("passed over")), worker.ToString());
        var end = worker.Lines.Select(line => Regex.Match(line, "stopped behind step ([0-9]+)")).SingleOrDefault(match => match.Success);
        That(end is not null, worker.ToString());
        return long.Parse(end!.Groups[1].Value);
    }

    public static IEnumerable<Test> All =>
    [
        Case("the worker ends within a step of a signal with a whole checkpoint, and goes on from it bit for bit", () => InFolder(folder =>
        {
            var (straight, broken) = (Path.Combine(folder, "straight"), Path.Combine(folder, "broken"));
            Directory.CreateDirectory(straight);
            Directory.CreateDirectory(broken);
            var first = Stopped(broken, Terminate, 0, 100);
            var second = Stopped(broken, Interrupt, first, 101);
            foreach (var step in new[] { first, second })
                Equal(step, Checkpoint.Info(Path.Combine(broken, $"step-{step:D12}.safetensors")).Step, "step of the checkpoint");
            var last = second + 51;
            foreach (var (into, start) in new[] { (broken, second), (straight, 0) })
            {
                using var worker = new Worker(into, [.. Settings, $"--Training:Steps={last}"]);
                That(worker.Until($"starting at step {start} of {last}") is not null, worker.ToString());
                Equal(0, worker.Finish(), worker.ToString());
                That(!worker.Lines.Any(line => line.Contains("passed over")), worker.ToString());
            }

            That(Directory.GetFiles(broken, "*.tmp").Length == 0, "a temporary file is left");
            var name = $"step-{last:D12}.safetensors";
            That(File.ReadAllBytes(Path.Combine(straight, name)).AsSpan().SequenceEqual(File.ReadAllBytes(Path.Combine(broken, name))),
                "the final states differ");
        })),

        Case("the worker says what is wrong with its configuration, and that its training failed", () => InFolder(folder =>
        {
            foreach (var (argument, word) in new[]
                { ("--Training:Stepz=3", "'Stepz'"), ("--Training:Noise=2", "Training:Noise has to be"), ("--Training:Unroll=0", "Unroll (0)") })
            {
                using var worker = new Worker(folder, [argument]);
                Equal(1, worker.Finish(), argument);
                That(worker.ToString().Contains(word), worker.ToString());
            }
        })),

        Case("dotnet-counters sees the worker's metrics", () => InFolder(folder =>
        {
            using var worker = new Worker(folder, ["--Training:Steps=1000000"]);
            That(worker.Until("starting at step 0") is not null, worker.ToString());
            var file = Path.Combine(folder, "counters.json");
            Repository.Run(Repository.Root, "dotnet", "tool", "run", "dotnet-counters", "--", "collect", "--process-id", $"{worker.Id}",
                "--counters", "Sama", "--format", "json", "--output", file, "--duration", "00:00:04", "--refresh-interval", "1");
            worker.Signal(Terminate);
            Equal(0, worker.Finish(), worker.ToString());

            using var collected = JsonDocument.Parse(File.ReadAllText(file));
            var events = collected.RootElement.GetProperty("Events").EnumerateArray()
                .Select(e => (Name: e.GetProperty("name").GetString()!, Tags: e.GetProperty("tags").GetString()!, Value: e.GetProperty("value").GetDouble()))
                .ToArray();
            bool Seen(string name, string tags) =>
                events.Any(e => e.Name.Split(' ')[0] == name && e.Tags.Contains(tags) && double.IsFinite(e.Value) && e.Value > 0);
            foreach (var (name, tags) in new[]
            {
                ("sama.steps", ""), ("sama.examples", ""), ("sama.step.duration", ""), ("sama.phase.duration", "perturbed"),
                ("sama.loss", "classifier"), ("sama.loss", "weights"), ("sama.hypergradient.norm", "weights"), ("sama.memory.resident", ""),
            })
                That(Seen(name, tags), $"{name} {tags} is not in: {string.Join(' ', events.Select(e => e.Name).Distinct())}");
        })),

        Case("a collector gets the worker's metrics and spans", () => InFolder(folder =>
        {
            using var collector = new Collector();
            using (var worker = new Worker(folder, ["--Training:Steps=50", "--Telemetry=Otlp"], collector.Address))
                Equal(0, worker.Finish(), worker.ToString());
            foreach (var name in new[] { "sama.steps", "sama.loss", "sama.phase.duration", "classifier" })
                That(collector.Got("/v1/metrics").Contains(name), name);
            foreach (var name in new[] { "sama.step", "sama.base", "sama.meta", "sama.perturbed" })
                That(collector.Got("/v1/traces").Contains(name), name);
        })),
    ];
}
