// A worker that trains. dotnet run --project examples/TrainingService -- --Training:Folder=run --Training:Steps=5000
// SIGTERM or Ctrl+C ends it behind the step that is being taken, with a checkpoint; started again, it goes on from there,
// bit for bit. Metrics: dotnet-counters monitor -n TrainingService --counters Sama, or --Telemetry=Console, or
// --Telemetry=Otlp for a collector (OTEL_EXPORTER_OTLP_ENDPOINT).
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Options;
using OpenTelemetry;
using OpenTelemetry.Metrics;
using OpenTelemetry.Trace;
using Sama;
using TrainingService;

Native.Initialize();
// appsettings.json lies beside the program, wherever it is started
var builder = Host.CreateApplicationBuilder(new HostApplicationBuilderSettings { Args = args, ContentRootPath = AppContext.BaseDirectory });
builder.Services.AddOptions<TrainingOptions>().BindConfiguration("Training", binder => binder.ErrorOnUnknownConfiguration = true)
    .Validate(o => o.Noise is >= 0 and < 1, "Training:Noise has to be in [0, 1)")
    .ValidateOnStart();
builder.Services.AddHostedService<Trainer>();
// a step and its checkpoint take as long as they take
builder.Services.Configure<HostOptions>(o => o.ShutdownTimeout = Timeout.InfiniteTimeSpan);

switch (builder.Configuration["Telemetry"])
{
    case null or "None": break;
    case "Console": Metrics().WithMetrics(metrics => metrics.AddConsoleExporter()); break;
    case "Otlp": Metrics().WithTracing(traces => traces.AddSource("Sama")).UseOtlpExporter(); break;
    case var other: throw new ArgumentException($"Telemetry is None, Console or Otlp, not '{other}'");
}

try
{
    await builder.Build().RunAsync();
    return Environment.ExitCode;
}
catch (Exception error) when (error is OptionsValidationException or InvalidOperationException)
{
    return 1; // the host has logged what is wrong with the configuration
}

OpenTelemetryBuilder Metrics() => builder.Services.AddOpenTelemetry().WithMetrics(metrics => metrics.AddMeter("Sama"));
