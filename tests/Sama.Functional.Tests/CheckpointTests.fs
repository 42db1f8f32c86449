/// Checkpoints: what is loaded goes on bit for bit, and whatever is damaged or foreign is refused by name.
module Sama.Tests.CheckpointTests

open System
open System.IO
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private inFolder (body: string -> unit) =
    let folder = Directory.CreateTempSubdirectory "checkpoints-"

    try
        body folder.FullName
    finally
        folder.Delete true

let private same (a: Tensor) (b: Tensor) =
    a.dtype = b.dtype && a.shape = b.shape && a.eq(b).all().item<bool> ()

let rec private sameRule (a: RuleState) (b: RuleState) =
    a.Count = b.Count
    && Seq.forall (fun name -> same a.Tensors[name] b.Tensors[name]) a.Tensors.Keys
    && Seq.forall2 sameRule a.Parts b.Parts

/// Bit for bit, windows included.
let private expectSame (a: RunState) (b: RunState) what =
    Expect.equal (a.Step, a.Seed) (b.Step, b.Seed) what

    for own, other in Seq.zip a.Levels b.Levels do
        Expect.isTrue (same own.Vector other.Vector && sameRule own.Rule other.Rule) $"{what}: {own.Name}"
        Expect.equal (isNull own.Window) (isNull other.Window) $"{what}: window"

        if not (isNull own.Window) then
            Expect.isTrue (same own.Window.Theta other.Window.Theta) $"{what}: window's θ"
            Expect.isTrue (sameRule own.Window.Rule other.Window.Rule) $"{what}: window's rule"
            Expect.sequenceEqual own.Window.Steps other.Window.Steps $"{what}: window's steps"

    for own in a.Buffers do
        Expect.isTrue (same own.Value b.Buffers[own.Key]) $"{what}: buffer {own.Key}"

let private refuses<'e, 'result when 'e :> exn> (words: string list) (action: unit -> 'result) =
    Expect.throwsC (action >> ignore) (function
        | :? 'e as e ->
            for word in words do
                Expect.stringContains e.Message word ""
        | e -> failtest $"{e}")

/// A net with batch-norm and dropout over drawn minibatches, re-weighted.
let private withBuffers () =
    let x, y = normal 80L [| 24L; 3L |], normal 81L [| 24L; 1L |]

    let net =
        torch.nn.Sequential(
            struct ("in", torch.nn.Linear(3L, 4L, dtype = f64) :> torch.nn.Module<Tensor, Tensor>),
            struct ("norm", torch.nn.BatchNorm1d(4L, dtype = f64) :> torch.nn.Module<Tensor, Tensor>),
            struct ("drop", torch.nn.Dropout 0.2 :> torch.nn.Module<Tensor, Tensor>),
            struct ("out", torch.nn.Linear(4L, 1L, dtype = f64) :> torch.nn.Module<Tensor, Tensor>)
        )

    let batches = Batches.shuffled (Rows.pair x y) 8

    Problem.create
        (unrollBy 2)
        Hypergradient.sama
        [ Level.ofModuleGeneral "net" net (adam 0.05) batches (fun _ levels (x, y) ->
              (square (net.call x - y) * torch.sigmoid levels["weights"].["w"]).mean ())
          Level.create "weights" [ "w", torch.zeros (1L, dtype = f64) ] (adam 0.1) batches (fun _ _ _ (x, y) ->
              (square (net.call x - y)).mean ()) ]

let private threeLevels method =
    let part (levels: Levels) name = levels[name].["x"]

    let level name size rule =
        Level.general name [ "x", normal 90L [| size |] ] rule id

    Problem.create
        (unrollBy 2)
        Hypergradient.sama
        [ level "low" 4L (adam 0.05) (fun _ levels _ ->
              (square (part levels "low" - (part levels "mid").sum ())).sum ()
              * (part levels "top").exp().mean ())
          |> Level.withMethod method
          level "mid" 3L (sgd 0.02) (fun _ levels _ -> square((part levels "low").sum () - (part levels "mid")).sum ())
          |> Level.responding MiddleResponse.Held
          level "top" 2L (adam 0.02) (fun _ levels _ ->
              square((part levels "mid").sum () - 1.0).sum ()
              + square(part levels "top").sum ()) ]

/// Runs so many steps, through a file after `cut` of them, against the run that never stopped.
let private resumes (problem: unit -> BilevelProblem) cut total =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "state.safetensors")

        let whole =
            let problem = problem ()
            use start = Bilevel.start 5L problem
            use run = new BilevelRun(problem, start)

            for step in 1..total do
                run.Step() |> ignore

                if step = cut then
                    use state = run.Snapshot()
                    Checkpoint.save path state

            run.Snapshot()

        use whole = whole
        let problem = problem ()
        use loaded = Checkpoint.load problem path
        use run = new BilevelRun(problem, loaded)

        for _ in cut + 1 .. total do
            run.Step() |> ignore

        use ended = run.Snapshot()
        expectSame ended whole $"cut at {cut}")

let private saved folder =
    let problem = quadratic (adam 0.05) 2 Hypergradient.sama
    use state = after 2 problem
    let path = Path.Combine(folder, "state.safetensors")
    Checkpoint.save path state
    problem, path

let tests =
    testList
        "checkpoints"
        [ for name, rule in RuleTests.rules do
              testCase $"resumed = uninterrupted, bit for bit: {name}"
              <| fun () -> resumes (fun () -> quadratic rule 2 Hypergradient.sama) 3 8

          testCase "resumed = uninterrupted: unrolled, at every place of a window"
          <| fun () ->
              for cut in 1..7 do
                  resumes (fun () -> reweightingWith (unrollBy 3) Stopped 0.3 (adam 0.05) Hypergradient.unrolled) cut 9

          testCase "resumed = uninterrupted: three levels, SAMA and unrolled"
          <| fun () ->
              for method in [ Hypergradient.sama; Hypergradient.unrolled ] do
                  for cut in [ 3; 4; 5 ] do
                      resumes (fun () -> threeLevels method) cut 9

          testCase "resumed = uninterrupted: modules, buffers, dropout, shuffled batches"
          <| fun () ->
              torch.random.manual_seed 3L |> ignore
              let problem = withBuffers ()
              let again = withBuffers ()

              for cut in [ 3; 4 ] do
                  let mutable first = true

                  resumes
                      (fun () ->
                          let own = if first then problem else again
                          first <- false
                          own)
                      cut
                      9

          testCase "what is loaded is what was saved, and says where it comes from"
          <| fun () ->
              inFolder (fun folder ->
                  let problem, path = saved folder
                  use state = after 2 problem
                  Checkpoint.saveWith (readOnlyDict [ "score", "0.5" ]) path state
                  use loaded = Checkpoint.load problem path
                  expectSame loaded state ""
                  let info = Checkpoint.info path
                  Expect.equal (info.Step, info.Seed, List.ofSeq info.Levels) (4L, 5L, [ "base"; "meta" ]) ""
                  Expect.equal info.Notes["score"] "0.5" ""
                  Expect.isTrue (info.Origin.ContainsKey "libtorch") ""
                  // tensors have their own names and shapes, which any reader of the format shows
                  use file = SafetensorsFile.Open path
                  Expect.equal (file.Entry "base/parameters/b").Shape [| 2L; 2L |] "")

          testCase "the same state gives the same bytes"
          <| fun () ->
              inFolder (fun folder ->
                  let _, path = saved folder
                  let first = File.ReadAllBytes path
                  let _, path = saved folder
                  Expect.equal (File.ReadAllBytes path) first "")

          testCase "a checkpoint of another problem is refused with what differs"
          <| fun () ->
              inFolder (fun folder ->
                  let _, path = saved folder

                  refuses<ArgumentException, _> [ "another problem"; "'classifier'" ] (fun () ->
                      Checkpoint.load (reweighting Stopped 0.3 (adam 0.05) Hypergradient.sama) path)

                  refuses<ArgumentException, _> [ "another problem"; "rule" ] (fun () ->
                      Checkpoint.load (quadratic (sgd 0.05) 2 Hypergradient.sama) path))

          testCase "every single damage is told with the file's name"
          <| fun () ->
              inFolder (fun folder ->
                  let problem, path = saved folder
                  let bytes = File.ReadAllBytes path

                  let refused (what: string) (changed: byte[]) =
                      File.WriteAllBytes(path, changed)

                      try
                          use _ = Checkpoint.load problem path
                          failtest $"{what} was not noticed"
                      with
                      | :? InvalidDataException as e -> Expect.stringContains e.Message path what
                      | :? Expecto.AssertException -> reraise ()
                      | e -> failtest $"{what}: {e}"

                  for i in 0..7 .. bytes.Length - 1 do
                      let changed = Array.copy bytes
                      changed[i] <- changed[i] ^^^ (1uy <<< i % 8)
                      refused $"bit {i % 8} of byte {i}" changed

                  for length in [ 0; 1; 7; 8; 100; bytes.Length - 1 ] do
                      refused $"cut at {length}" bytes[.. length - 1]

                  refused "longer" (Array.append bytes [| 0uy |])
                  refused "zeros at its end" (Array.append bytes[.. bytes.Length - 33] (Array.zeroCreate 32))
                  Safetensors.Save(path, [ struct ("x", torch.ones 3L) ])
                  refused "foreign" (File.ReadAllBytes path)

                  refused
                      "newer"
                      (Text.Encoding.Latin1.GetBytes(
                          (Text.Encoding.Latin1.GetString bytes)
                              .Replace("\"sama.format\":\"1\"", "\"sama.format\":\"2\"")
                      )))

          testCase "inside a window a stream, and data that change, are refused with the reason"
          <| fun () ->
              inFolder (fun folder ->
                  let path = Path.Combine(folder, "state.safetensors")
                  let x = normal 82L [| 12L; 6L |]

                  let problem (data: Draw -> Tensor) =
                      Problem.create
                          (unrollBy 2)
                          Hypergradient.unrolled
                          [ Level.create
                                "base"
                                [ "w", torch.zeros (6L, dtype = f64) ]
                                (sgd 0.1)
                                data
                                (fun _ theta lambda x -> (square (x.mv theta["w"] - 1.0) * lambda["x"]).mean ())
                            Level.create
                                "meta"
                                [ "x", torch.ones (1L, dtype = f64) ]
                                (sgd 0.1)
                                ignore
                                (fun _ theta _ () -> square(theta["w"] - 0.1).sum ()) ]

                  let stateOf problem steps =
                      use run = new BilevelRun(problem, 3L)

                      for _ in 1..steps do
                          run.Step() |> ignore

                      run.Snapshot()

                  let streamed = problem (Batches.stream [ x; x * 2.0 ])
                  use inside = stateOf streamed 1
                  refuses<InvalidOperationException, _> [ "stream"; "'base'" ] (fun () -> Checkpoint.save path inside)
                  Expect.isFalse (File.Exists path) "nothing is written"
                  use behind = stateOf streamed 2
                  Checkpoint.save path behind
                  (Checkpoint.load streamed path).Dispose()
                  use other = stateOf (problem (Batches.shuffled (Rows.tensor x) 4)) 1
                  Checkpoint.save path other

                  refuses<InvalidOperationException, _> [ "other batches"; "step 0" ] (fun () ->
                      Checkpoint.load (problem (Batches.shuffled (Rows.tensor (x + 1.0)) 4)) path))

          testCase "a disposed state is refused, a missing file named"
          <| fun () ->
              inFolder (fun folder ->
                  let problem, path = saved folder
                  let state = after 1 problem
                  state.Dispose()
                  refuses<ArgumentException, _> [ "disposed" ] (fun () -> Checkpoint.save path state)
                  refuses<FileNotFoundException, _> [ "absent" ] (fun () -> Checkpoint.load problem (path + ".absent")))

          testCase "saving and loading leave no tensor behind, failed or not"
          <| fun () ->
              inFolder (fun folder ->
                  let problem, path = saved folder
                  let cut = path + ".cut"
                  File.WriteAllBytes(cut, (File.ReadAllBytes path)[..200])
                  use state = after 2 problem
                  let flipped = File.ReadAllBytes path
                  flipped[flipped.Length - 1] <- flipped[flipped.Length - 1] ^^^ 1uy
                  File.WriteAllBytes(path + ".flipped", flipped)
                  GC.Collect()
                  GC.WaitForPendingFinalizers()
                  let before = Tensor.TotalCount

                  for _ in 1..5 do
                      Checkpoint.save path state
                      (Checkpoint.load problem path).Dispose()

                      for damaged in [ cut; path + ".flipped" ] do
                          refuses<InvalidDataException, _> [ damaged ] (fun () -> Checkpoint.load problem damaged)

                  Expect.equal Tensor.TotalCount before "live tensors") ]
