namespace Sama

open System
open System.Runtime.InteropServices
open System.Threading

/// A token that SIGTERM and SIGINT (Ctrl+C) cancel, instead of ending the process: a run looks at it between steps. The
/// second signal ends the process as ever.
[<Sealed>]
type StopSignal() =
    let source = new CancellationTokenSource()

    let handle (context: PosixSignalContext) =
        if not source.IsCancellationRequested then
            context.Cancel <- true
            source.Cancel()

    let registrations =
        [ PosixSignalRegistration.Create(PosixSignal.SIGTERM, Action<_> handle)
          PosixSignalRegistration.Create(PosixSignal.SIGINT, Action<_> handle) ]

    /// Cancelled by the first signal.
    member _.Token = source.Token

    interface IDisposable with
        /// Signals do again what they did.
        member _.Dispose() =
            for registration in registrations do
                registration.Dispose()

            source.Dispose()
