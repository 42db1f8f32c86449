namespace Sama.Functional

open System
open System.Collections.Generic
open TorchSharp
open TorchSharp.Modules
open Sama

/// One slice of a layout and every parameter of a module that is it: tied parameters share storage.
[<NoComparison; NoEquality>]
type internal Tied =
    { Name: string
      Parameters: Parameter list }

/// A TorchSharp module as a function of Params: before a call its parameters are pointed at the views.
module NnModule =

    /// InvalidOperationException for parameters that share a part of their storage.
    let private requireApart (found: Tied seq) : unit =
        let placed =
            [ for tied in found do
                  let p = tied.Parameters.Head

                  if p.numel () > 0L && p.device_type <> DeviceType.META then
                      let start = int64 (Number.address p)

                      let last =
                          Seq.map2 (fun size step -> (size - 1L) * step) p.shape (p.stride ()) |> Seq.sum

                      string p.device, start, start + (last + 1L) * p.ElementSize, tied.Name ]

        for (device, _, ends, name), (device', start, _, name') in placed |> List.sort |> List.pairwise do
            if device = device' && start < ends then
                invalidOp
                    $"parameters '{name}' and '{name'}' share a part of their storage; make the one from the other in the forward pass"

    /// Trainable parameters by storage, in the module's order. InvalidOperationException for two that share storage in
    /// different shapes, which no slice can be.
    let internal trainable (m: torch.nn.Module) : Tied list =
        let found = List<Tied>()
        let places = Dictionary<struct (nativeint * string), int>()

        for struct (name, p) in m.named_parameters () do
            if p.requires_grad then
                let place = Number.place p

                match places.TryGetValue place with
                | true, i when p.numel () > 0L ->
                    let first = found[i].Parameters.Head

                    if first.shape <> p.shape || first.stride () <> p.stride () then
                        invalidOp
                            $"parameters '{found[i].Name}' and '{name}' share storage in different shapes or orders; tie them in one shape (a transposed one: use the parameter itself, transposed in the forward pass)"

                    found[i] <-
                        { found[i] with
                            Parameters = found[i].Parameters @ [ p ] }
                | _ ->
                    places[place] <- found.Count
                    found.Add { Name = name; Parameters = [ p ] }

        requireApart found
        List.ofSeq found

    let private named m =
        [ for tied in trainable m -> tied.Name, (tied.Parameters.Head :> Tensor) ]

    /// The layout of a module's trainable parameters; tied ones are one slice, of the first name.
    let layout (m: torch.nn.Module) : Layout = Layout.ofNamed (named m)

    /// A module's trainable parameters, copied into one new flat vector.
    let ravel (m: torch.nn.Module) : Tensor = Layout.ravel (named m)

    let private point (p: Params) (i: int) (parameter: Parameter) =
        parameter.set_ p.Views[i] |> ignore
        parameter.requires_grad <- (p.Mode = Leaves)

        parameter.grad <-
            if p.Mode = Leaves && not (isNull p.Gradients) then
                p.Gradients[i]
            else
                null

    let internal pointAt (tied: Tied list) (p: Params) : unit =
        if p.Mode = Traced then
            invalidOp "a module cannot be differentiated twice; give the model as a function of Params"

        use _ = torch.no_grad ()

        for i, one in List.indexed tied do
            for parameter in one.Parameters do
                point p i parameter

    /// Points the module's parameters at the views, storage and gradients: nothing is copied.
    /// InvalidOperationException for traced views, which a module's leaves cannot be.
    let bind (m: torch.nn.Module) : Params -> unit = pointAt (trainable m)

    /// InvalidOperationException naming a parameter whose gradient did not go into its slice of the flat gradient: the
    /// loss delegate broke the alias (`zero_grad()`, `to(dtype)`, `backward`).
    let internal checkAliases (level: string) (tied: Tied list) (p: Params) : unit =
        if p.Mode = Leaves && not (isNull p.Gradients) then
            for i, one in List.indexed tied do
                for parameter in one.Parameters |> List.filter (fun p -> p.IsInvalid || p.numel () > 0L) do
                    let lost () =
                        parameter.IsInvalid
                        || Number.place parameter <> Number.place p.Views[i]
                        || (use gradient = parameter.grad
                            isNull gradient || Number.place gradient <> Number.place p.Gradients[i])

                    if lost () then
                        invalidOp
                            $"level '{level}': parameter '{one.Name}' lost its gradient during the pass: the loss delegate must not call zero_grad(), to(), backward() or a module optimizer"

    /// InvalidOperationException naming what is no longer as it was when the level was made: a parameter that was replaced,
    /// cast, frozen or unfrozen.
    let internal requireUnchanged (level: string) (m: torch.nn.Module) (tied: Tied list) : unit =
        let refuse name what =
            invalidOp
                $"level '{level}': parameter '{name}' {what} after the level was made; make the level and its problem again (a run's state goes on from its Snapshot)"

        let reference = tied.Head.Parameters.Head

        for one in tied do
            for parameter in one.Parameters do
                if parameter.IsInvalid then
                    refuse one.Name "was replaced or cast"
                elif not parameter.requires_grad then
                    refuse one.Name "was frozen"
                elif parameter.dtype <> reference.dtype then
                    refuse one.Name $"was cast to {parameter.dtype}"

        let own = HashSet [ for one in tied -> Number.place one.Parameters.Head ]

        for struct (name, p) in m.named_parameters () do
            if p.requires_grad && p.numel () > 0L && not (own.Contains(Number.place p)) then
                refuse name "was added, replaced or unfrozen"

    /// Runs `body` and then points the parameters back at the storage that they had, trainable and with the gradients
    /// that they had.
    let internal keepingParameters (tied: Tied list) (body: unit -> 'result) : 'result =
        let before =
            [ for one in tied do
                  for p in one.Parameters -> p, Scope.detach (p.detach().alias ()), p.requires_grad, p.grad ]

        try
            body ()
        finally
            use _ = torch.no_grad ()

            for p, storage, trainable, gradient in before do
                p.set_ storage |> ignore
                p.requires_grad <- trainable
                p.grad <- gradient
                storage.Dispose()

                if not (isNull gradient) then
                    gradient.Dispose()

    /// Runs `body` with these modules in eval mode, and puts every part of them back into the mode that it had.
    let internal evaluating (modules: torch.nn.Module list) (body: unit -> 'result) : 'result =
        // a module sets its parts too, so that it comes before them
        let before =
            [ for m in modules do
                  m, m.training

                  for part in m.modules () do
                      part, part.training ]

        try
            for m in modules do
                m.eval ()

            body ()
        finally
            for m, training in before do
                m.train training

/// Buffers of modules, such as the running statistics of batch norm: part of a run's state.
module internal Buffers =

    /// The buffers of some modules by name, each storage once.
    let ofModules (modules: (string * torch.nn.Module) list) : (string * Tensor) list =
        let seen = HashSet<struct (nativeint * string)>()

        [ for prefix, m in modules do
              for struct (name, buffer) in m.named_buffers () do
                  if not (isNull buffer) && not buffer.IsInvalid && seen.Add(Number.place buffer) then
                      prefix + name, buffer ]

    /// Copies, owned by the caller.
    let copy (buffers: (string * Tensor) list) : (string * Tensor) list =
        [ for name, buffer in buffers -> name, Scope.copy buffer ]

    /// Writes saved values back. A module's buffers keep their storage.
    let load (saved: (string * Tensor) list) (buffers: (string * Tensor) list) : unit =
        if not buffers.IsEmpty then
            use _ = torch.no_grad ()
            let values = dict saved

            for name, buffer in buffers do
                match values.TryGetValue name with
                | true, value -> buffer.copy_ value |> ignore
                | _ -> ()

    /// Runs `body` and puts the buffers back as they were.
    let keeping (buffers: unit -> (string * Tensor) list) (body: unit -> 'result) : 'result =
        let live = buffers ()

        if live.IsEmpty then
            body ()
        else
            let before = copy live

            try
                body ()
            finally
                load before live

                for _, saved in before do
                    saved.Dispose()
