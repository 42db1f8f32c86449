namespace Sama.DataPruning

open System
open System.IO
open System.Runtime.InteropServices
open System.Security.Cryptography
open System.Text
open TorchSharp
open Sama
open Sama.DataOptimization
open Sama.TextCleaning

/// Rows to prune, and rows to judge by behind them, of either kind.
[<NoComparison; NoEquality>]
type internal PruneSource =
    {
        Name: string
        Classes: string[]
        /// rows to prune
        Count: int
        /// of these and of the rows to judge by
        Labels: int[]
        Ids: string[]
        /// texts, or null
        Texts: string[]
        /// images, or null
        Images: ImageSet
        /// fixes what is trained on
        Digest: string
        Model: unit -> IRowClassifier
    }

module internal PruneSource =

    let private digest (parts: ReadOnlyMemory<byte> seq) =
        use sha = IncrementalHash.CreateHash HashAlgorithmName.SHA256

        for part in parts do
            sha.AppendData part.Span

        Convert.ToHexString(sha.GetHashAndReset())[..31]

    let private device (name: string) : torch.Device =
        let device = torch.device name

        if device.``type`` <> DeviceType.CPU && not (torch.cuda.is_available ()) then
            raise (ArgumentException $"--device {name}: this libtorch sees no CUDA device")

        device

    let private several (source: PruneSource) : PruneSource =
        let own = source.Labels[.. source.Count - 1]

        if (Array.distinct own).Length < 2 then
            raise (
                DataException(
                    source.Name,
                    Nullable(),
                    null,
                    $"all {source.Count} rows are of one class, {source.Classes[own[0]]}: at least two are needed",
                    null
                )
            )

        source

    let private images (o: DataPruningOptions) : PruneSource =
        let read = ImageReader.Read(o.Data, o.Size)

        let test =
            if String.IsNullOrEmpty o.Test then
                read.Test
            else
                (ImageReader.Read(o.Test, o.Size)).Train

        let all =
            if isNull (box test) then
                read.Train
            else
                // the file of one split may lack a class
                let classes = [ read.Train; test ] |> List.map _.Classes |> List.maxBy _.Length
                ({ read.Train with Classes = classes }).Append { test with Classes = classes }

        { Name = o.Data
          Classes = all.Classes
          Count = read.Train.Count
          Labels = all.Labels
          Ids = all.Ids
          Texts = null
          Images = all
          Digest =
            digest
                [ ReadOnlyMemory all.Pixels
                  ReadOnlyMemory(MemoryMarshal.AsBytes(ReadOnlySpan all.Labels).ToArray()) ]
          Model =
            fun () ->
                new ImageClassifier(all, (if isNull o.Model then "lenet" else o.Model), device o.Device)
                :> IRowClassifier }

    let private texts (o: DataPruningOptions) : PruneSource =
        let wrench = DataReader.IsWrench o.Data

        let rows, test =
            if wrench then
                let splits = DataReader.ReadWrench o.Data
                splits.Train, splits.Test
            else
                DataReader.Read(o.Data, o.Columns), Unchecked.defaultof<Dataset>

        let test =
            if String.IsNullOrEmpty o.Test then
                test
            else
                let c = o.Columns

                DataReader.Read(
                    o.Test,
                    ReadOptions(
                        TextColumn = c.TextColumn,
                        LabelColumn = c.LabelColumn,
                        IdColumn = c.IdColumn,
                        Separator = c.Separator,
                        Classes = rows.Classes,
                        SeveralClasses = false
                    )
                )

        let all =
            if isNull (box test) then
                rows.Rows
            else
                Array.append rows.Rows test.Rows

        let texts = all |> Array.map _.Text
        let device = device o.Device

        { Name = o.Data
          Classes = rows.Classes
          Count = rows.Rows.Length
          Labels = all |> Array.map _.Label
          Ids = all |> Array.map _.Id
          Texts = texts
          Images = Unchecked.defaultof<ImageSet>
          Digest =
            digest
                [ for row in all do
                      ReadOnlyMemory(Encoding.UTF8.GetBytes $"{row.Label} {row.Text}\n") ]
          Model =
            fun () ->
                if isNull o.Model then
                    new WordClassifier(texts, rows.Classes.Length, rows.Rows.Length, o.Tokens, device = device)
                    :> IRowClassifier
                else
                    new EncoderClassifier(
                        o.Model,
                        texts,
                        rows.Classes,
                        tokens = o.Tokens,
                        seed = int64 o.Pruning.Seed,
                        device = device
                    ) }

    /// ArgumentException without data; what the readers throw; DataException for one class alone.
    let read (o: DataPruningOptions) : PruneSource =
        if String.IsNullOrEmpty o.Data then
            raise (ArgumentException "--data is needed: a folder of images, or a file of labelled texts")

        if not (Directory.Exists o.Data || File.Exists o.Data) then
            raise (
                FileNotFoundException
                    $"{o.Data} does not exist: a folder of images or a file of labelled texts is expected"
            )

        several (
            if Directory.Exists o.Data && not (DataReader.IsWrench o.Data) then
                images o
            else
                texts o
        )
