namespace Sama.DataPruning

open System
open System.Collections.Generic
open System.IO
open System.Runtime.InteropServices
open System.Security.Cryptography
open System.Text
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.TextCleaning

/// Rows to prune, and behind them rows to judge by and clean ones, of either kind.
[<NoComparison; NoEquality>]
type internal PruneSource =
    {
        Name: string
        Classes: string[]
        /// rows to prune
        Count: int
        /// numbers of the rows to judge by, none where none are given
        Test: int[]
        /// test rows that do not judge, for they are rows to train on as well
        Trained: int
        /// what the data's folder holds that is not read
        PassedOver: string[]
        /// numbers of the clean rows, null where none are given
        Clean: int[]
        /// of all these rows
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

    let private bad (source: PruneSource) (reason: string) : 'a =
        raise (DataException(source.Name, Nullable(), null, reason, null))

    let private several (source: PruneSource) : PruneSource =
        let own = source.Labels[.. source.Count - 1]

        if (Array.distinct own).Length < 2 then
            bad source $"all {source.Count} rows are of one class, {source.Classes[own[0]]}: at least two are needed"

        source

    /// Test rows that are trained on as well, text by text or pixel by pixel, do not judge; DataException where none is left.
    let private unseen (source: PruneSource) : PruneSource =
        let content (row: int) : string =
            if isNull source.Texts then
                Convert.ToHexString(SHA256.HashData(source.Images.Image row))
            else
                source.Texts[row]

        if source.Test.Length = 0 then
            source
        else
            let clean = if isNull source.Clean then [||] else source.Clean

            let trained =
                Array.append [| 0 .. source.Count - 1 |] clean |> Seq.map content |> HashSet

            let test = source.Test |> Array.filter (content >> trained.Contains >> not)

            if test.Length = 0 then
                bad source $"all {source.Test.Length} test rows are rows to train on as well"

            { source with
                Test = test
                Trained = source.Test.Length - test.Length }

    /// Numbers of rows behind so many, of lists one behind the other.
    let private behind (count: int) (tests: int) (clean: int) : int[] * int[] =
        [| count .. count + tests - 1 |],
        (if clean = 0 then
             null
         else
             [| count + tests .. count + tests + clean - 1 |])

    /// The same images under these classes, each by its name: the files of one split may lack a class.
    let private under (classes: string[]) (set: ImageSet) : ImageSet =
        let place =
            set.Classes
            |> Array.mapi (fun label name ->
                match Array.IndexOf(classes, name), Array.contains label set.Labels with
                | -1, true ->
                    let known = String.Join(", ", classes)

                    raise (
                        DataException(set.Name, Nullable(), null, $"class {name} is none of the rows': {known}", null)
                    )
                | at, _ -> at)

        { set with
            Classes = classes
            Labels = set.Labels |> Array.map (fun label -> place[label]) }

    let private images (o: DataPruningOptions) : PruneSource =
        let read = ImageReader.Read(o.Data, o.Size)

        let given (path: string) (otherwise: ImageSet) =
            if not (String.IsNullOrEmpty path) then
                [ (ImageReader.Read(path, o.Size)).Train ]
            elif isNull (box otherwise) then
                []
            else
                [ otherwise ]

        let test = given o.Test read.Test
        let clean = given o.Clean Unchecked.defaultof<ImageSet>
        let sets: ImageSet list = read.Train :: test @ clean
        // the file of one split may lack a class, clean rows bring none
        let classes =
            read.Train :: test |> List.map (fun set -> set.Classes) |> List.maxBy _.Length

        let all =
            sets
            |> List.map (under classes)
            |> List.reduce (fun set more -> set.Append more)

        let countOf (sets: ImageSet list) =
            sets |> List.sumBy (fun set -> set.Count)

        let tests, cleans = behind read.Train.Count (countOf test) (countOf clean)

        { Name = o.Data
          Classes = all.Classes
          Count = read.Train.Count
          Test = tests
          Trained = 0
          PassedOver = read.PassedOver |> Array.map (fun name -> $"the folder {name}")
          Clean = cleans
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
                new ImageClassifier(all, (if isNull o.Model then "lenet" else o.Model), Native.device o.Device)
                :> IRowClassifier }

    let private texts (o: DataPruningOptions) : PruneSource =
        let wrench = DataReader.IsWrench o.Data

        let rows, test, passedOver =
            if wrench then
                let splits = DataReader.ReadWrench o.Data
                splits.Train, splits.Test, [| $"the {splits.Valid.Rows.Length} rows of valid" |]
            else
                DataReader.Read(o.Data, o.Columns), Unchecked.defaultof<Dataset>, [||]

        let given (path: string) (otherwise: Dataset) =
            if not (String.IsNullOrEmpty path) then
                let c = o.Columns

                let read =
                    DataReader.Read(
                        path,
                        ReadOptions(
                            TextColumn = c.TextColumn,
                            LabelColumn = c.LabelColumn,
                            IdColumn = c.IdColumn,
                            Separator = c.Separator,
                            Classes = rows.Classes,
                            SeveralClasses = false
                        )
                    )

                read.Rows
            elif isNull (box otherwise) then
                [||]
            else
                otherwise.Rows

        let test = given o.Test test
        let clean = given o.Clean Unchecked.defaultof<Dataset>
        let all = Array.concat [ rows.Rows; test; clean ]
        let tests, cleans = behind rows.Rows.Length test.Length clean.Length
        let texts = all |> Array.map _.Text
        let device = Native.device o.Device

        { Name = o.Data
          Classes = rows.Classes
          Count = rows.Rows.Length
          Test = tests
          Trained = 0
          PassedOver = passedOver
          Clean = cleans
          Labels = all |> Array.map _.Label
          Ids = all |> Array.map _.Id
          Texts = texts
          Images = Unchecked.defaultof<ImageSet>
          Digest =
            digest
                [ for row in all do
                      ReadOnlyMemory(Encoding.UTF8.GetBytes $"{row.Label} {row.Text}\n")
                  if Directory.Exists o.Model then
                      ReadOnlyMemory(Encoding.UTF8.GetBytes(OutFolder.Digest o.Model)) ]
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

    /// ArgumentException without data; what the readers throw; DataException for one class alone, and for test rows that are
    /// all trained on.
    let read (o: DataPruningOptions) : PruneSource =
        if String.IsNullOrEmpty o.Data then
            raise (ArgumentException "--data is needed: a folder of images, or a file of labelled texts")

        if not (Directory.Exists o.Data || File.Exists o.Data) then
            raise (
                FileNotFoundException
                    $"{o.Data} does not exist: a folder of images or a file of labelled texts is expected"
            )

        (if Directory.Exists o.Data && not (DataReader.IsWrench o.Data) then
             images o
         else
             texts o)
        |> several
        |> unseen
