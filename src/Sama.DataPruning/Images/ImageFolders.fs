namespace Sama.DataPruning

open System
open System.IO
open Sama.DataOptimization

/// A folder a class, PNG and JPEG inside.
module internal ImageFolders =

    let is (name: string) =
        [ ".png"; ".jpg"; ".jpeg" ]
        |> List.exists (fun (ending: string) -> name.EndsWith ending)

    let private hidden (folder: string) = Path.GetFileName(folder).StartsWith '.'

    /// All folders inside, by name.
    let inside (folder: string) : string[] =
        Directory.GetDirectories folder
        |> Array.filter (hidden >> not)
        |> Array.sortWith (fun a b -> String.CompareOrdinal(a, b))

    /// The classes' folders: those with images.
    let classes (folder: string) : string[] =
        inside folder |> Array.filter (fun path -> (Bytes.files path is).Length > 0)

    /// Files that are no images are not passed over: a row lost unseen is worse.
    let private images (folder: string) : string[] =
        let all = Bytes.files folder (fun name -> not (name.StartsWith '.'))

        match all |> Array.tryFind (fun path -> not (is (path.ToLowerInvariant()))) with
        | Some other -> Bytes.bad other "neither PNG nor JPEG by its name: move it out of the class's folder"
        | None -> all

    /// All images of all classes; of one size, or resized to `size` x `size`.
    let read (folder: string) (names: string[]) (size: int option) : ImageSet =
        for path in inside folder |> Array.except (classes folder) do
            Bytes.bad path "no .png or .jpg in it: a folder a class is expected; move other folders away"

        let files =
            names
            |> Array.mapi (fun label name ->
                let inside = Path.Combine(folder, name)

                // a test set may lack a class
                (if Directory.Exists inside then images inside else [||])
                |> Array.map (fun path -> label, path))
            |> Array.concat

        if files.Length = 0 then
            Bytes.bad folder "no .png or .jpg in it: a folder a class is expected"

        let decoded =
            files
            |> Array.map (fun (_, path) -> Pictures.decode path (DataReader.ReadBytes path) size)

        let struct (_, high, wide) = decoded[0]

        decoded
        |> Array.iteri (fun i (struct (_, h, w)) ->
            if h <> high || w <> wide then
                Bytes.bad
                    (snd files[i])
                    $"{h} x {w} pixels, {snd files[0]} has {high} x {wide}: give a size to bring all to (--size)")

        if int64 decoded.Length * 3L * int64 high * int64 wide > int64 Array.MaxLength then
            Bytes.bad
                folder
                $"{decoded.Length} images of {high} x {wide} pixels are more than 2 GB: give a smaller size (--size)"

        { Name = folder
          Classes = names
          Channels = 3
          Height = high
          Width = wide
          Ids = files |> Array.map (fun (_, path) -> Path.GetRelativePath(folder, path))
          Labels = Array.map fst files
          Pixels = decoded |> Array.map (fun (struct (pixels, _, _)) -> pixels) |> Array.concat }
