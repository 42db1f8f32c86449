namespace Sama

/// One tensor of a safetensors file.
[<NoComparison; NoEquality>]
type SafetensorsEntry =
    {
        /// any text; never a path
        Name: string
        /// the format's own name: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL, C64, and those that libtorch has not
        Dtype: string
        /// sizes of its axes; none for a single number
        Shape: int64[]
        /// bytes from the file's start to its first
        Offset: int64
        /// its bytes
        Length: int64
    }

namespace Sama.Functional

open System
open System.Buffers
open System.Collections.Generic
open System.IO
open System.Text
open System.Text.Encodings.Web
open System.Text.Json
open System.Text.Unicode
open Microsoft.Win32.SafeHandles
open TorchSharp
open Sama

/// The header of a safetensors file: 8 bytes of length, JSON, and the rules that tie it to the bytes that follow
/// (https://huggingface.co/docs/safetensors). Everything is checked before a tensor is allocated.
module internal SafetensorsHeader =

    /// The reference refuses longer headers too.
    let limit = 100_000_000L

    let private damaged (path: string) (why: string) : exn =
        InvalidDataException $"'{path}' is not a sound safetensors file: {why}"

    let private integers (fail: string -> exn) (what: string) (json: JsonElement) : int64[] =
        if json.ValueKind <> JsonValueKind.Array then
            raise (fail $"its {what} is no list")

        [| for item in json.EnumerateArray() do
               let mutable value = 0L

               if
                   item.ValueKind <> JsonValueKind.Number
                   || not (item.TryGetInt64 &value)
                   || value < 0L
               then
                   raise (fail $"its {what} holds {item.GetRawText()}, which is no count below 2^63")

               value |]

    /// dtype, shape and data_offsets, each once and nothing else.
    let private fields (fail: string -> exn) (json: JsonElement) : Dictionary<string, JsonElement> =
        if json.ValueKind <> JsonValueKind.Object then
            raise (fail "its entry is no object")

        let found = Dictionary()

        for field in json.EnumerateObject() do
            if not (found.TryAdd(field.Name, field.Value)) then
                raise (fail $"the field '{field.Name}' is there twice")

        for name in [ "dtype"; "shape"; "data_offsets" ] do
            if not (found.ContainsKey name) then
                raise (fail $"the field '{name}' is missing")

        if found.Count <> 3 then
            let others =
                found.Keys |> Seq.except [ "dtype"; "shape"; "data_offsets" ] |> Seq.head

            raise (fail $"the format has no field '{others}'")

        found

    let private entry (fail: string -> exn) (start: int64) (name: string) (json: JsonElement) : SafetensorsEntry =
        let found = fields fail json

        let dtype =
            match found["dtype"].ValueKind with
            | JsonValueKind.String when SafetensorsTypes.known.ContainsKey(found["dtype"].GetString()) ->
                found["dtype"].GetString()
            | _ ->
                let raw = found["dtype"].GetRawText()
                raise (fail $"its dtype {raw} is none of the format's")

        let shape = integers fail "shape" found["shape"]

        match integers fail "data_offsets" found["data_offsets"] with
        | [| first; last |] when first <= last ->
            let length =
                try
                    SafetensorsTypes.sizeOf dtype shape
                with :? OverflowException as e ->
                    raise (fail $"the size of its shape overflows: {e.Message}")

            if length <> last - first then
                raise (fail $"its shape takes {length} bytes, its data_offsets are {last - first} apart")

            if first > Int64.MaxValue - start then
                raise (fail "it lies beyond 2^63")

            { Name = name
              Dtype = dtype
              Shape = shape
              Offset = start + first
              Length = length }
        | other -> raise (fail $"its data_offsets {JsonSerializer.Serialize other} are no [begin, end]")

    let private metadata (fail: string -> exn) (json: JsonElement) : Dictionary<string, string> =
        if json.ValueKind <> JsonValueKind.Object then
            raise (fail "__metadata__ is no object")

        let found = Dictionary()

        for item in json.EnumerateObject() do
            if item.Value.ValueKind <> JsonValueKind.String then
                raise (fail $"__metadata__ maps '{item.Name}' to {item.Value.GetRawText()}, not to a string")

            if not (found.TryAdd(item.Name, item.Value.GetString())) then
                raise (fail $"__metadata__ holds '{item.Name}' twice")

        found

    /// Sorted by offset the tensors must cover the buffer: no hole, no overlap, no rest.
    let private checkCover (path: string) (start: int64) (size: int64) (entries: SafetensorsEntry seq) : unit =
        let mutable stop = start

        for e in entries |> Seq.sortBy (fun e -> struct (e.Offset, e.Length)) do
            if e.Offset <> stop then
                let what = if e.Offset < stop then "overlap" else "hole"
                raise (damaged path $"tensor '{e.Name}': {what} of {abs (e.Offset - stop)} bytes before it")

            if e.Length > size - e.Offset then
                raise (damaged path $"tensor '{e.Name}' ends {e.Length - (size - e.Offset)} bytes beyond the file")

            stop <- e.Offset + e.Length

        if stop <> size then
            raise (damaged path $"the last {size - stop} bytes belong to no tensor")

    let private bytes (path: string) (handle: SafeFileHandle) (size: int64) : byte[] =
        let read (buffer: byte[]) (offset: int64) =
            let mutable filled = 0

            while filled < buffer.Length do
                match
                    RandomAccess.Read(handle, Span(buffer, filled, buffer.Length - filled), offset + int64 filled)
                with
                | 0 -> raise (damaged path "it ends inside the header")
                | more -> filled <- filled + more

            buffer

        if size < 8L then
            raise (damaged path $"it has {size} bytes, the header's length alone takes 8")

        let length = BitConverter.ToUInt64(read (Array.zeroCreate 8) 0L, 0)

        if length > uint64 limit then
            raise (damaged path $"it claims a header of {length} bytes, more than {limit}")

        if int64 length > size - 8L then
            raise (damaged path $"it claims a header of {length} bytes, {size - 8L} follow")

        read (Array.zeroCreate (int length)) 8L

    /// Metadata (null if there is none) and tensors in the header's order. InvalidDataException names file and tensor.
    let read (path: string) (handle: SafeFileHandle) : Dictionary<string, string> * SafetensorsEntry[] =
        let size = RandomAccess.GetLength handle
        let header = bytes path handle size

        if header.Length = 0 || header[0] <> byte '{' then
            raise (damaged path "its header does not begin with '{'")

        if not (Utf8.IsValid(ReadOnlySpan header)) then
            raise (damaged path "its header is not UTF-8")

        let start = 8L + int64 header.Length
        let mutable found: Dictionary<string, string> = null
        let names = HashSet<string>()

        let entries =
            try
                use json =
                    JsonDocument.Parse(ReadOnlyMemory header, JsonDocumentOptions(MaxDepth = 8))

                [| for item in json.RootElement.EnumerateObject() do
                       if not (names.Add item.Name) then
                           raise (damaged path $"tensor '{item.Name}' is there twice")

                       if item.Name = "__metadata__" then
                           found <- metadata (damaged path) item.Value
                       else
                           let fail why =
                               damaged path $"tensor '{item.Name}': {why}"

                           entry fail start item.Name item.Value |]
            with
            | :? JsonException as e -> raise (damaged path $"its header is no JSON: {e.Message}")
            // half a surrogate pair, which JSON may escape and no text may hold
            | :? InvalidOperationException as e -> raise (damaged path $"its header holds no text: {e.Message}")

        checkCover path start size entries
        found, entries

    let private writeEntries (json: Utf8JsonWriter) (tensors: struct (string * torch.ScalarType * int64[]) seq) =
        let names = HashSet<string>()
        let mutable at = 0L

        [| for struct (name, kind, shape) in tensors do
               if isNull name || name = "__metadata__" || not (names.Add name) then
                   invalidArg (nameof tensors) $"the name '{name}' is null, reserved or given twice"

               // it would be written as another one
               if Encoding.UTF8.GetString(Encoding.UTF8.GetBytes name) <> name then
                   invalidArg (nameof tensors) $"the name '{name}' holds half a surrogate pair, which no text may"

               let dtype = SafetensorsTypes.dtypeOf kind
               let length = SafetensorsTypes.sizeOf dtype shape
               json.WriteStartObject name
               json.WriteString("dtype", dtype)
               json.WriteStartArray "shape"
               shape |> Array.iter json.WriteNumberValue
               json.WriteEndArray()
               json.WriteStartArray "data_offsets"
               json.WriteNumberValue at
               json.WriteNumberValue(at + length)
               json.WriteEndArray()
               json.WriteEndObject()

               { Name = name
                 Dtype = dtype
                 Shape = shape
                 Offset = at
                 Length = length }

               at <- at + length |]

    /// The header's bytes, padded with spaces to a multiple of 8, and the entries with their places in the file.
    /// ArgumentException for a name given twice or `__metadata__`, a type that the format has not, or too long a header.
    let write
        (metadata: IEnumerable<KeyValuePair<string, string>>)
        (tensors: struct (string * torch.ScalarType * int64[]) seq)
        : byte[] * SafetensorsEntry[] =
        let buffer = ArrayBufferWriter<byte>()

        use json =
            new Utf8JsonWriter(buffer, JsonWriterOptions(Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping))

        json.WriteStartObject()

        if not (isNull metadata) then
            json.WriteStartObject "__metadata__"

            for item in metadata do
                json.WriteString(item.Key, item.Value)

            json.WriteEndObject()

        let entries = writeEntries json tensors

        json.WriteEndObject()
        json.Flush()
        let padded = (buffer.WrittenCount + 7) / 8 * 8

        if int64 padded > limit then
            invalidArg (nameof tensors) $"the header takes {padded} bytes, more than the {limit} that readers accept"

        let bytes = Array.create (8 + padded) (byte ' ')
        BitConverter.TryWriteBytes(Span bytes, uint64 padded) |> ignore
        buffer.WrittenSpan.CopyTo(Span(bytes, 8, padded))

        bytes,
        entries
        |> Array.map (fun e ->
            { e with
                Offset = e.Offset + int64 bytes.Length })
