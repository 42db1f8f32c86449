namespace Sama

/// What is known of a run while it goes on. A run that has them measures every step (`StepReport.Telemetry`,
/// `MetaReport.Cosine`) and feeds the meter and the activity source "Sama"; files are written where they are named. Without
/// them nothing is measured, unless somebody listens to the meter or the source.
[<Sealed; AllowNullLiteral>]
type TelemetryOptions() =
    /// A file that gets a line of JSON a step (appended); null for none.
    member val JsonLines: string = null with get, set

    /// Base steps between lines. Default 1.
    member val Every = 1L with get, set

    /// A folder for TensorBoard; null for none.
    member val TensorBoard: string = null with get, set

    /// Base steps between points of TensorBoard's curves, each of which opens its file again. Default 10.
    member val TensorBoardEvery = 10L with get, set

    /// Waits for a CUDA device where a phase ends, so that each has its own time; the run gets slower. Default false: the
    /// host runs ahead of the device, a phase has the time that the host spent in it, and the wait is in Reading.
    member val Synchronize = false with get, set
