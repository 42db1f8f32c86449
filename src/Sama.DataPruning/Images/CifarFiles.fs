namespace Sama.DataPruning

open System
open System.IO
open Sama.DataOptimization

/// CIFAR-10's binary files: records of a label byte and 3072 bytes, red, green and blue planes of 32 x 32. A .cjpk file packs
/// the same as JPEGs that share their header: CJPK, the header's length, the number n of images, the header, n label bytes,
/// n lengths of 16 bits, n bodies; numbers are little-endian.
module internal CifarFiles =

    let private pixels = 3 * 32 * 32

    let is (name: string) =
        name.EndsWith ".bin" || name.EndsWith ".cjpk"

    let private label (path: string) (record: int) (value: byte) : int =
        if value > 9uy then
            Bytes.bad path $"record {record}: label {value} is not one of CIFAR-10's, 0 to 9"

        int value

    let private records (path: string) : (int * byte[])[] =
        let bytes = DataReader.ReadBytes path
        let size = pixels + 1

        if bytes.Length = 0 || bytes.Length % size <> 0 then
            Bytes.bad path $"{bytes.Length} bytes are no whole number of CIFAR-10's records of {size} bytes"

        Array.init (bytes.Length / size) (fun i -> label path i bytes[i * size], Array.sub bytes (i * size + 1) pixels)

    let private packed (path: string) : (int * byte[])[] =
        let bytes = DataReader.ReadBytes path

        let cut () =
            Bytes.bad path "no whole pack of JPEGs (CJPK)"

        let number (at: int) = BitConverter.ToInt32(bytes, at)

        if bytes.Length < 12 || bytes.AsSpan(0, 4).SequenceEqual("CJPK"B) |> not then
            cut ()

        let header, count = number 4, number 8

        if
            header < 0
            || count <= 0
            || int64 bytes.Length < 12L + int64 header + 3L * int64 count
        then
            cut ()

        let labels = 12 + header
        let lengths = labels + count

        let length i =
            int (BitConverter.ToUInt16(bytes, lengths + 2 * i))

        let starts = Array.init count length |> Array.scan (+) (lengths + 2 * count)

        if Array.last starts <> bytes.Length then
            cut ()

        Array.init count (fun i ->
            let jpeg =
                Array.append bytes[12 .. labels - 1] bytes[starts[i] .. starts[i + 1] - 1]

            let struct (planes, high, wide) = Pictures.decode $"{path}, image {i}" jpeg None

            if planes.Length <> pixels then
                Bytes.bad path $"image {i} is {high} x {wide}, not 32 x 32"

            label path i bytes[labels + i], planes)

    /// The classes' names beside the files, else their numbers.
    let private classes (folder: string) : string[] =
        let names = Path.Combine(folder, "batches.meta.txt")

        if File.Exists names then
            let names =
                File.ReadAllLines names |> Array.filter (String.IsNullOrWhiteSpace >> not)

            if names.Length = 10 then names else Array.init 10 string
        else
            Array.init 10 string

    /// Files as one set.
    let read (folder: string) (paths: string[]) : ImageSet =
        let parts =
            paths
            |> Array.collect (fun path ->
                let records =
                    if path.EndsWith(".cjpk", StringComparison.OrdinalIgnoreCase) then
                        packed path
                    else
                        records path

                records |> Array.mapi (fun i record -> $"{Path.GetFileName path}:{i}", record))

        { Name = folder
          Classes = classes folder
          Channels = 3
          Height = 32
          Width = 32
          Ids = Array.map fst parts
          Labels = parts |> Array.map (snd >> fst)
          Pixels = parts |> Array.map (snd >> snd) |> Array.concat }
