namespace Sama.DataOptimization

open System
open System.Threading
open TorchSharp
open Sama
open Sama.Functional

/// What the ranks that share a cleaning or a pruning do together.
module internal Together =

    /// OperationCanceledException on every rank where one is cancelled.
    let stopIfCancelled (ranks: Communicator) (cancellation: CancellationToken) : unit =
        if ranks.Any cancellation.IsCancellationRequested then
            cancellation.ThrowIfCancellationRequested()
            raise (OperationCanceledException "another rank was asked to stop")

    /// A step of a training whose rate, if it diverges, is what to change: InvalidOperationException that says so.
    let step (rate: float) (run: BilevelRun) : StepReport =
        try
            run.Step()
        with :? NonFiniteException as e ->
            raise (InvalidOperationException($"{e.Message}: the training diverges; give a rate below {rate}", e))

    /// The matrix of which this rank has the rows from `first` on, on every rank. What it gives is the caller's.
    let whole (ranks: Communicator) (count: int) (first: int) (own: Tensor) : Tensor =
        if ranks.Size = 1 then
            own.alias ()
        else
            let rows = Array.append [| int64 count |] own.shape[1..]
            let all = torch.zeros (rows, dtype = own.dtype, device = own.device)

            // each row once, also where all ranks have all
            if ranks.Rank = 0 || own.shape[0] < int64 count then
                all.narrow(0L, int64 first, own.shape[0]).copy_ own |> ignore

            ranks.Sum(all).GetAwaiter().GetResult()
            all
