/// Safetensors files: what is written is read, and what is damaged is refused by name.
module Sama.Language.Tests.SafetensorsTests

open System
open System.Collections.Generic
open System.IO
open System.Text
open Expecto
open FsCheck
open TorchSharp
open Sama
open Sama.Functional
open Sama.Language.Tests.Tiny

let private types =
    [ torch.float64
      torch.float32
      torch.float16
      torch.bfloat16
      torch.int64
      torch.int32
      torch.int16
      torch.int8
      torch.uint8
      torch.bool ]

let private drawn (seed: int) (dtype: torch.ScalarType) (shape: int64[]) : Tensor =
    use generator = new torch.Generator(uint64 seed)
    torch.randint(-100L, 100L, shape, dtype = torch.int64, generator = generator).to_type dtype

let private equal (a: Tensor) (b: Tensor) =
    a.dtype = b.dtype && a.shape = b.shape && (a.numel () = 0L || a.Equals b)

let private written (path: string) : unit =
    use a = torch.arange (6f, dtype = torch.float32)
    use b = torch.ones ([| 2L |], dtype = torch.bool)
    Safetensors.Save(path, [ struct ("a", a.view (2L, 3L)); struct ("b", b) ], dict [ "format", "pt" ] |> Dictionary)

/// Opens and reads everything.
let private readAll (path: string) : unit =
    use file = SafetensorsFile.Open path

    for entry in file.Entries do
        (file.Read entry.Name).Dispose()

/// The file is read, or refused by an error that names it.
let private sound (path: string) : bool =
    try
        readAll path
        true
    with :? InvalidDataException as e ->
        e.Message.Contains path

let private headed (path: string) (header: string) (body: int) : unit =
    let bytes = Encoding.UTF8.GetBytes header
    File.WriteAllBytes(path, Array.concat [ BitConverter.GetBytes(uint64 bytes.Length); bytes; Array.zeroCreate body ])

let private refusals =
    [ "names the tensor that overlaps",
      """{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"bb":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}""",
      12,
      "'bb'"
      "names the tensor whose size overflows",
      """{"bb":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}""",
      0,
      "'bb'"
      "names the tensor that is there twice",
      """{"bb":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"bb":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}""",
      1,
      "'bb'"
      "names the dtype that is none", """{"bb":{"dtype":"F128","shape":[1],"data_offsets":[0,16]}}""", 16, "F128"
      "a file with nothing but depth", String('[', 100000), 0, "begin with"
      "depth within an entry", """{"bb":""" + String('[', 5000) + String(']', 5000) + "}", 0, "JSON"
      "leading white space", """ {"bb":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}""", 1, "begin with"
      "half a surrogate pair in a name", """{"\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}""", 1, "no text"
      "a fraction as an offset", """{"bb":{"dtype":"U8","shape":[1],"data_offsets":[0.0,1]}}""", 1, "'bb'"
      "a BOOL that is neither", """{"bb":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}""", -2, "BOOL" ]

let tests =
    testList
        "safetensors"
        [ testPropertyWithConfig
              { FsCheckConfig.defaultConfig with
                  maxTest = 60 }
              "every type and shape is read back bit by bit, sizes in pieces or not"
          <| fun (shapes: (byte * byte list) list) (seed: int) ->
              use _ = torch.NewDisposeScope()
              use folder = new Folder()

              let tensors =
                  [ for i, (kind, shape) in List.indexed shapes ->
                        let shape =
                            shape |> List.truncate 4 |> List.map (fun n -> int64 (n % 5uy)) |> Array.ofList

                        struct ($"tensor.{i} é", drawn (seed + i) types[int kind % types.Length] shape) ]

              let metadata = Dictionary(dict [ "a", "b\"\n"; "ключ", "" ])
              Safetensors.Save(folder.At "f", tensors, metadata)
              use file = SafetensorsFile.Open(folder.At "f")
              Expect.equal (List.ofSeq file.Metadata) (List.ofSeq metadata) "metadata"
              Expect.equal file.Entries.Count tensors.Length "entries"

              for struct (name, tensor) in tensors do
                  Expect.isTrue (equal tensor (file.Read name)) name

          testCase "a tensor is copied into another type, device order or layout"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use folder = new Folder()
              let half = torch.randn([| 3L; 4L |]).to_type torch.float16
              Safetensors.Save(folder.At "f", [ struct ("h", half) ])
              use file = SafetensorsFile.Open(folder.At "f")
              let wide, turned = torch.zeros ([| 3L; 4L |]), torch.zeros([| 4L; 3L |]).t ()
              file.ReadInto("h", wide)
              file.ReadInto("h", turned)
              Expect.equal (apart wide (half.to_type torch.float32)) 0.0 "widened"
              Expect.equal (apart turned wide) 0.0 "not contiguous"
              Expect.throwsT<ArgumentException> (fun () -> file.ReadInto("h", torch.zeros 12L)) "another shape"

          testCase "a strided tensor is written in its own order"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use folder = new Folder()
              let turned = torch.randn([| 3L; 4L |]).t ()
              Safetensors.Save(folder.At "f", [ struct ("t", turned) ])
              use file = SafetensorsFile.Open(folder.At "f")
              Expect.isTrue (equal (turned.contiguous ()) (file.Read "t")) ""

          testCase "a file that is cut anywhere is refused by name"
          <| fun _ ->
              use folder = new Folder()
              let path = folder.At "f"
              written path
              let bytes = File.ReadAllBytes path

              for length in 0 .. bytes.Length - 1 do
                  File.WriteAllBytes(path, Array.truncate length bytes)

                  Expect.throwsC (fun () -> readAll path) (fun e ->
                      Expect.isTrue (e :? InvalidDataException && e.Message.Contains path) $"{length}: {e}")

          testCase "a file with any flipped bit is read or refused, and never more"
          <| fun _ ->
              use folder = new Folder()
              let path = folder.At "f"
              written path
              let bytes = File.ReadAllBytes path
              let mutable refused = 0

              for at in 0 .. bytes.Length - 1 do
                  for bit in 0..7 do
                      let damaged = Array.copy bytes
                      damaged[at] <- damaged[at] ^^^ (1uy <<< bit)
                      File.WriteAllBytes(path, damaged)
                      Expect.isTrue (sound path) $"byte {at}, bit {bit}"

                      if
                          (try
                              readAll path
                              false
                           with _ ->
                               true)
                      then
                          refused <- refused + 1

              Expect.isGreaterThan refused 500 "most of the header matters"

          for what, header, body, shown in refusals do
              testCase $"refused: {what}"
              <| fun _ ->
                  use folder = new Folder()
                  let path = folder.At "f"
                  headed path header (abs body)

                  if body < 0 then
                      // the last byte is the tensor's
                      let bytes = File.ReadAllBytes path
                      File.WriteAllBytes(path, Array.append bytes[.. bytes.Length - 3] [| 7uy |])

                  Expect.throwsC (fun () -> readAll path) (fun e ->
                      Expect.isTrue (e :? InvalidDataException) (string (e.GetType()))
                      Expect.stringContains e.Message path "file"
                      Expect.stringContains e.Message shown "reason")

          testCase "what libtorch has no tensors for is listed, and refused by name when it is asked for"
          <| fun _ ->
              use folder = new Folder()
              headed (folder.At "f") """{"bb":{"dtype":"U16","shape":[1],"data_offsets":[0,2]}}""" 2
              use file = SafetensorsFile.Open(folder.At "f")
              Expect.equal (file.Entry "bb").Dtype "U16" "listed"

              Expect.throwsC (fun () -> file.Read "bb" |> ignore) (fun e ->
                  Expect.isTrue
                      (e :? InvalidDataException
                       && e.Message.Contains "'bb'"
                       && e.Message.Contains "U16")
                      e.Message)

          testCase "what is not there is said to be so"
          <| fun _ ->
              use folder = new Folder()
              Expect.throwsT<FileNotFoundException> (fun () -> readAll (folder.At "none")) "file"
              Expect.throwsT<FileNotFoundException> (fun () -> readAll (folder.At "none/f")) "folder"
              Expect.throwsT<InvalidDataException> (fun () -> readAll folder.Path) "a folder"
              written (folder.At "f")
              use file = SafetensorsFile.Open(folder.At "f")
              Expect.throwsT<InvalidDataException> (fun () -> file.Read "c" |> ignore) "tensor"

          testCase "a file that is not completed leaves the one that was there"
          <| fun _ ->
              use folder = new Folder()
              let path = folder.At "f"
              written path
              let before = File.ReadAllBytes path
              use one = torch.ones 4L

              let begin' () =
                  SafetensorsWriter.Create(
                      path,
                      [ struct ("x", torch.float32, [| 4L |]); struct ("y", torch.float32, [| 4L |]) ]
                  )

              let interrupted () =
                  use writer = begin' ()
                  writer.Write("y", one)
                  Expect.throwsT<InvalidOperationException> writer.Complete "x is missing"
                  Expect.throwsT<ArgumentException> (fun () -> writer.Write("y", one)) "twice"
                  Expect.throwsT<ArgumentException> (fun () -> writer.Write("z", one)) "never announced"

              interrupted ()
              Expect.equal (File.ReadAllBytes path) before "untouched"
              Expect.equal (Directory.GetFiles folder.Path).Length 1 "nothing is left"

          testCase "shards and their index hold the same tensors as one file"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use folder = new Folder()

              let tensors =
                  [| for i in 0..6 -> struct ($"t{i}", drawn i torch.float32 [| 5L; int64 i |]) |]

              SafetensorsFolder.Save(folder.Path, "model", tensors, null, 200L)
              Expect.isTrue (File.Exists(folder.At "model.safetensors.index.json")) "index"
              Expect.isGreaterThan (Directory.GetFiles(folder.Path, "*.safetensors")).Length 2 "shards"
              use read = SafetensorsFolder.Open(folder.Path, "model")
              Expect.equal read.Entries.Count tensors.Length "entries"

              for struct (name, tensor) in tensors do
                  Expect.isTrue (equal tensor (read.Read name)) name

          testCase "an index cannot lead out of its folder, nor to a tensor that is not there"
          <| fun _ ->
              use folder = new Folder()
              written (folder.At "s.safetensors")

              let refused (map: string) =
                  File.WriteAllText(folder.At "model.safetensors.index.json", $$"""{"weight_map":{{map}}}""")

                  try
                      use _ = SafetensorsFolder.Open(folder.Path, "model")
                      false
                  with
                  | :? InvalidDataException
                  | :? FileNotFoundException -> true

              Expect.isFalse (refused """{"a":"s.safetensors"}""") "as it should be"

              for map in
                  [ """{"a":"../s.safetensors"}"""
                    """{"a":"/etc/passwd"}"""
                    """{"a":".."}"""
                    """{"a":3}"""
                    """{"c":"s.safetensors"}"""
                    """{"a":"t.safetensors"}"""
                    "{}"
                    "[]" ] do
                  Expect.isTrue (refused map) map ]
