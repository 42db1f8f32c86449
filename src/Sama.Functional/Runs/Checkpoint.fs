namespace Sama.Functional

open System
open System.Collections.Generic
open System.IO
open TorchSharp
open Sama

/// States of runs as files: one safetensors file a state, with a checksum of everything. Tensors are named
/// `level/parameters/name`, `level/rule/…`, `level/window/…` and `buffers/…`, so that Python's safetensors reads them.
module Checkpoint =

    let private requireRepeatable (state: RunState) =
        for level in state.Levels do
            if not (isNull level.Window) then
                for struct (step, micros) in level.Window.Taken do
                    if micros |> List.exists (fun micro -> not micro.Repeatable) then
                        invalidOp
                            $"the state is inside a window of level '{level.Name}', whose step {step} was taken on a batch of a stream: a checkpoint fetches a window's batches again by their draws, which a stream cannot. Write it behind a meta step, or take Batches.shuffled"

    /// Writes a state, with notes of the caller's: the file is whole or not there (written beside its place, flushed to the
    /// disk, renamed), and no second copy of the state is in memory. InvalidOperationException for a state inside a window
    /// whose batches come from a stream, IOException from the disk.
    let saveWith (notes: IReadOnlyDictionary<string, string>) (path: string) (state: RunState) : unit =
        requireRepeatable state

        for level in state.Levels do
            if level.Vector.IsInvalid then
                invalidArg (nameof state) $"the state of level '{level.Name}' is disposed"

        let notes =
            if isNull notes then
                []
            else
                [ for note in notes -> note.Key, note.Value ]

        CheckpointFile.write path notes state

    /// `saveWith` no notes.
    let save (path: string) (state: RunState) : unit = saveWith null path state

    /// What a checkpoint says beside its tensors, which are not read. Errors as `load` for the file's part.
    let info (path: string) : CheckpointInfo =
        use file = SafetensorsFile.Open path
        let fields = CheckpointFile.fields file

        { Path = path
          Step = fields.Step
          Seed = fields.Seed
          Levels = [| for level in fields.Levels -> level.Name |]
          Origin = readOnlyDict fields.Origin
          Notes = readOnlyDict fields.Notes }

    let private requireLevels (problem: BilevelProblem) (path: string) (fields: CheckpointFields) =
        let own = [ for level in fields.Levels -> level.Name ]

        if own <> List.ofArray problem.LevelNames then
            let shown names =
                String.Join(", ", Seq.map (sprintf "'%s'") names)

            invalidArg
                (nameof problem)
                $"'{path}' is a checkpoint of another problem: its levels are {shown own}, the problem's {shown problem.LevelNames}"

    /// The window's batches, fetched again by their draws.
    let private taken
        (problem: BilevelProblem)
        (path: string)
        (reader: CheckpointFile.Reader)
        index
        (window: WindowFields)
        =
        [ for own in window.Taken do
              let micros = Problem.micros problem own.Seed index own.Number
              micros |> List.iter reader.Own

              // what rank 0 wrote
              let isOwn = problem.Communicator.Rank = 0

              if isOwn && CheckpointFile.batches micros <> own.Batches then
                  invalidOp
                      $"'{path}' is inside a window whose step {own.Number} was taken on other batches than the data of level '{problem.LevelNames[index]}' give now: they have to be a function of the draw, on the same data"

              struct (own.Number, micros) ]

    let private level
        (problem: BilevelProblem)
        path
        (reader: CheckpointFile.Reader)
        index
        (own: LevelFields)
        : LevelState =
        let layout =
            Layout.create [ for name, shape in own.Parameters -> name, Array.ofList shape ]

        let device = problem.Levels[index].Device
        let vector prefix = reader.Vector device prefix layout

        let rule prefix tree =
            CheckpointFile.ruleOf (reader.Tensor device) prefix tree

        { Name = own.Name
          Layout = layout
          Update = own.Update
          Vector = vector (CheckpointFile.parametersAt own.Name)
          Rule = rule (CheckpointFile.ruleAt own.Name) own.Rule
          Kept =
            if reader.Holds(CheckpointFile.keptAt own.Name, layout) then
                vector (CheckpointFile.keptAt own.Name)
            else
                null
          Window =
            match own.Window with
            | None -> null
            | Some w ->
                new OpenWindow(
                    w.Began,
                    vector (CheckpointFile.windowAt own.Name),
                    rule (CheckpointFile.windowRuleAt own.Name) w.Rule,
                    taken problem path reader index w
                ) }

    /// A state of this problem, on its levels' devices; the caller owns it. A state inside a window has its batches fetched
    /// again by their draws. FileNotFoundException; InvalidDataException naming file and tensor for whatever is damaged, no
    /// checkpoint, or of a newer format; ArgumentException for a checkpoint of another problem, with what differs;
    /// InvalidOperationException if an open window's batches are others now.
    let load (problem: BilevelProblem) (path: string) : RunState =
        use file = SafetensorsFile.Open path
        let fields = CheckpointFile.fields file
        requireLevels problem path fields
        use reader = new CheckpointFile.Reader(file, fields)
        use _ = torch.NewDisposeScope()

        let state =
            { Levels = [| for i, own in List.indexed fields.Levels -> level problem path reader i own |]
              Buffers =
                readOnlyDict
                    [ for name in fields.Buffers ->
                          name, reader.Tensor (problem.Levels[0].Device) (CheckpointFile.bufferAt name) ]
              Step = fields.Step
              Seed = fields.Seed }

        try
            RunState.requireOf problem (nameof problem) state
            reader.HandOver()
            state
        with :? ArgumentException as e ->
            let why = e.Message.Replace($" (Parameter '{e.ParamName}')", "")
            raise (ArgumentException($"'{path}' is a checkpoint of another problem: {why}", nameof problem, e))
