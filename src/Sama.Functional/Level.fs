namespace Sama

open System.Collections.Generic

/// The parameters of every level of a problem, by the level's name.
[<Sealed>]
type Levels internal (names: string[], parameters: Params[]) =
    /// A level's parameters. ArgumentException if there is no level of that name.
    member _.Item
        with get (name: string): Params =
            match System.Array.IndexOf(names, name) with
            | -1 ->
                let known = System.String.Join(", ", names)
                raise (System.ArgumentException($"no level is named '{name}'; there are: {known}", nameof name))
            | i -> parameters[i]

    member internal _.At(index: int) = parameters[index]

/// One level: what it optimises, by which rule, on which data. The type of its batches is known only to its maker.
[<NoComparison; NoEquality>]
type Level =
    internal
        {
            Name: string
            Layout: Layout
            Initial: unit -> Tensor
            Rule: BoundRule
            Module: TorchSharp.torch.nn.Module option
            Bind: Params -> unit
            /// the batch is fetched once a draw: a base pass and its perturbed passes see the same
            Objective: Draw -> Stops -> Levels -> Tensor
        }

namespace Sama.Functional

open TorchSharp
open Sama

/// Levels over named tensors or modules.
module Level =

    let private build name layout initial m rule (data: Draw -> 'batch) (loss: Pass -> Levels -> 'batch -> Tensor) =
        let objective draw =
            let batch = data draw
            let record = System.Collections.Generic.Dictionary()

            fun stops levels -> Draw.masks draw (fun () -> loss (Pass(draw, stops, record)) levels batch)

        { Name = name
          Layout = layout
          Initial = initial
          Rule = UpdateRule.bind layout rule
          Module = m
          Bind = m |> Option.map NnModule.bind |> Option.defaultValue ignore
          Objective = objective }

    /// A level over named tensors (borrowed; copied when a run starts) whose loss sees every level by name.
    let general
        (name: string)
        (parameters: (string * Tensor) list)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> Levels -> 'batch -> Tensor)
        : Level =
        build name (Layout.ofNamed parameters) (fun () -> Layout.ravel parameters) None rule data loss

    /// A level of a two-level problem: `loss pass θ λ batch`, one number. Its batch's tensors die with the step
    /// unless they were made before it.
    let create
        (name: string)
        (parameters: (string * Tensor) list)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> Params -> Params -> 'batch -> Tensor)
        : Level =
        general name parameters rule data (fun pass levels batch -> loss pass (levels.At 0) (levels.At 1) batch)

    /// A level over a module's trainable parameters, which are trained in place, whose loss sees every level by name.
    /// Frozen parameters stay outside.
    let ofModuleGeneral
        (name: string)
        (m: torch.nn.Module)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> Levels -> 'batch -> Tensor)
        : Level =
        if isNull m then
            nullArg (nameof m)

        build name (NnModule.layout m) (fun () -> NnModule.ravel m) (Some m) rule data loss

    /// A level over a module's trainable parameters whose loss calls the modules itself: `loss pass batch`.
    let ofModule
        (name: string)
        (m: torch.nn.Module)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> 'batch -> Tensor)
        : Level =
        ofModuleGeneral name m rule data (fun pass _ batch -> loss pass batch)
