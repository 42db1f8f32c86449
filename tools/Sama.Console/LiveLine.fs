namespace Sama

open System
open System.Diagnostics
open System.Threading.Tasks
open Spectre.Console

/// A line that shows how far something is and how long it still takes, on a console. Nothing where the console is none that
/// somebody looks at. For one thread at a time.
[<Sealed; AllowNullLiteral>]
type LiveLine(what: string, console: IAnsiConsole) =
    let shown = console.Profile.Capabilities.Interactive
    let ended = TaskCompletionSource()
    let mutable context: ProgressContext = null
    let mutable task: ProgressTask = null

    let start (text: string) =
        if not (isNull task) then
            task.Value <- 1.0
            task.StopTask()

        task <- context.AddTask(Markup.Escape text, true, 1.0)

    let rendering =
        if shown then
            console
                .Progress()
                .AutoClear(true)
                .AutoRefresh(false)
                .HideCompleted(true)
                .Columns(
                    TaskDescriptionColumn(Alignment = Justify.Left),
                    ProgressBarColumn(),
                    PercentageColumn(),
                    RemainingTimeColumn()
                )
                .StartAsync(fun own ->
                    context <- own
                    start what
                    ended.Task)
        else
            Task.CompletedTask

    let mutable last = 0.0
    let mutable drawn = 0L

    /// On the error output, so that what a program prints can be redirected; nothing where that is redirected itself.
    new(what: string) =
        let interactive =
            if Console.IsErrorRedirected then
                InteractionSupport.No
            else
                InteractionSupport.Detect

        new LiveLine(
            what,
            AnsiConsole.Create(AnsiConsoleSettings(Out = AnsiConsoleOutput Console.Error, Interactive = interactive))
        )

    /// How far it is, from 0 to 1, and what is done; less than before begins anew.
    member _.At(share: float, text: string) : unit =
        if shown then
            if share < last then
                start text

            // drawing takes milliseconds
            if share < last || Stopwatch.GetElapsedTime(drawn).TotalSeconds > 0.5 then
                drawn <- Stopwatch.GetTimestamp()
                task.Description <- Markup.Escape text
                task.Value <- Math.Clamp(share, 0.0, 1.0)
                context.Refresh()

            last <- share

    interface IDisposable with
        /// The line goes away.
        member _.Dispose() =
            ended.TrySetResult() |> ignore
            rendering.Wait()
