namespace Sama.DataPruning

open System
open System.IO
open System.Runtime.InteropServices
open Sama.DataOptimization

/// Images of a folder, and those to judge by where it tells them apart.
[<NoComparison; NoEquality>]
type ImageSplits =
    {
        /// the rows
        Train: ImageSet
        /// test_batch.bin, t10k-…, or test/, else val/, valid/ or validation/ beside train/; null where there are none
        Test: ImageSet
        /// names of other folders beside train/, which are not read
        PassedOver: string[]
    }

/// Images from folders.
[<AbstractClass; Sealed>]
type ImageReader =

    static let isTest (path: string) =
        let name = Path.GetFileName(path).ToLowerInvariant()
        name.StartsWith "test" || name.StartsWith "t10k"

    /// Files of tests alone are the rows.
    static let split (read: string[] -> ImageSet) (paths: string[]) : ImageSplits =
        match Array.partition isTest paths with
        | rows, [||]
        | [||], rows ->
            { Train = read rows
              Test = Unchecked.defaultof<ImageSet>
              PassedOver = [||] }
        | tests, rows ->
            { Train = read rows
              Test = read tests
              PassedOver = [||] }

    static let folders (folder: string) (size: int option) : ImageSplits =
        let inside name = Path.Combine(folder, name)

        let names path =
            ImageFolders.classes path |> Array.map Path.GetFileName

        if Directory.Exists(inside "train") && names(inside "train").Length > 0 then
            let classes = names (inside "train")

            let test =
                [ "test"; "val"; "valid"; "validation" ]
                |> List.tryFind (inside >> Directory.Exists)

            { Train = ImageFolders.read (inside "train") classes size
              Test =
                match test with
                | None -> Unchecked.defaultof<ImageSet>
                | Some name ->
                    match names (inside name) |> Array.except classes with
                    | [||] -> ImageFolders.read (inside name) classes size
                    | more -> Bytes.bad (inside $"{name}/{more[0]}") "a class that train has not"
              PassedOver =
                ImageFolders.inside folder
                |> Array.map Path.GetFileName
                |> Array.except ("train" :: Option.toList test) }
        else
            { Train = ImageFolders.read folder (names folder) size
              Test = Unchecked.defaultof<ImageSet>
              PassedOver = [||] }

    /// Images of a folder by what is in it: CIFAR-10's binary files (or a pack of its JPEGs, .cjpk), IDX files as MNIST's,
    /// gzipped or not, or a folder a class of PNG and JPEG, also under train/ and test/ (or val/). `size` brings pictures of folders to
    /// size x size pixels; without it all have to be of one size. Test files beside others are the test set.
    ///
    /// DirectoryNotFoundException; DataException, naming the file, for a folder without images or with images of two kinds, a
    /// file of a wrong length, a damaged image, another size, or a label that is none.
    static member Read(folder: string, [<Optional; DefaultParameterValue(0)>] size: int) : ImageSplits =
        ArgumentException.ThrowIfNullOrEmpty(folder, nameof folder)

        if size < 0 then
            invalidArg (nameof size) $"a size of {size} pixels"

        if not (Directory.Exists folder) then
            raise (DirectoryNotFoundException $"{folder} is no folder")

        let cifar, idx = Bytes.files folder CifarFiles.is, Bytes.files folder IdxFiles.is

        let pictured =
            (ImageFolders.classes folder).Length > 0
            || Directory.Exists(Path.Combine(folder, "train"))
               && (ImageFolders.classes (Path.Combine(folder, "train"))).Length > 0

        match cifar.Length > 0, idx.Length > 0, pictured with
        | true, false, false -> split (CifarFiles.read folder) cifar
        | false, true, false -> split (IdxFiles.read folder) idx
        | false, false, true -> folders folder (if size = 0 then None else Some size)
        | false, false, false ->
            Bytes.bad
                folder
                "no images: CIFAR-10's .bin files, IDX files (…-images-idx3-ubyte) or a folder a class with .png or .jpg are read"
        | _ -> Bytes.bad folder "images of two kinds: keep one kind in the folder"
