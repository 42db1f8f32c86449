namespace Sama.Functional

open System.Runtime.InteropServices

/// Libraries below MPI (UCX, PSM2, Open MPI 5) take SIGSEGV and SIGTERM for themselves while they start: then a null
/// reference, which .NET makes an exception of, ends the process, and SIGTERM does not ask it to stop any more.
module internal Signals =

    [<DllImport("libc", EntryPoint = "sigaction")>]
    extern int private action(int signal, nativeint change, nativeint before)

    [<DllImport("libc", EntryPoint = "setenv")>]
    extern int private setEnvironment(string name, string value, int overwrite)

    [<DllImport("libc", EntryPoint = "kill")>]
    extern int private send(int pid, int signal)

    [<DllImport("libc", EntryPoint = "usleep")>]
    extern int private sleep(uint32 microseconds)

    // larger than the C library's struct sigaction (152 bytes)
    let private size = 256
    let private last = 64

    /// Runs `body`; every signal is handled afterwards as it was before.
    let keeping (body: unit -> 'result) : 'result =
        for name, value in [ "UCX_ERROR_SIGNALS", ""; "HFI_NO_BACKTRACE", "1"; "IPATH_NO_BACKTRACE", "1" ] do
            setEnvironment (name, value, 0) |> ignore

        let saved = Marshal.AllocHGlobal(size * (last + 1))

        try
            let known =
                [ for signal in 1..last do
                      if action (signal, 0n, saved + nativeint (signal * size)) = 0 then
                          signal ]

            try
                body ()
            finally
                for signal in known do
                    action (signal, saved + nativeint (signal * size), 0n) |> ignore
        finally
            Marshal.FreeHGlobal saved

    /// Ends this process at once.
    let endNow () : unit =
        send (System.Environment.ProcessId, 9) |> ignore

    /// Thread.Sleep waits for a millisecond at least.
    let pause (microseconds: int) : unit = sleep (uint32 microseconds) |> ignore
