namespace Sama

open System
open System.Diagnostics
open System.IO

/// What a piece of work takes, from where this is made.
[<Sealed>]
type Usage() =
    do
        GC.Collect()

        // the process's peak begins anew
        if OperatingSystem.IsLinux() then
            File.WriteAllText("/proc/self/clear_refs", "5")

    let start = Environment.CpuUsage.TotalTime

    /// Processor time of all threads, in seconds.
    member _.Seconds: float = (Environment.CpuUsage.TotalTime - start).TotalSeconds

    /// The most resident memory, libtorch's own and what stays of earlier work included. Where it is not Linux, that of the
    /// process since it began.
    member _.PeakMegabytes: int64 =
        use own = Process.GetCurrentProcess()
        own.PeakWorkingSet64 / 1_000_000L
