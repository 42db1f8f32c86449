/// Images from every kind of folder, and what is refused.
module Sama.DataPruning.Tests.ReaderTests

open System
open System.IO
open System.Text
open Expecto
open Sama.DataOptimization
open Sama.DataPruning
open Sama.DataPruning.Tests.Files

let private image (set: ImageSet) number = (set.Image number).ToArray()

let private good =
    testList
        "read"
        [ testCase "CIFAR-10: every byte and label, files in order, test_batch apart"
          <| fun _ ->
              withFolder (fun folder ->
                  let path name = Path.Combine(folder, name)
                  let first = cifar (path "data_batch_1.bin") 1 [| 3; 9 |]
                  let second = cifar (path "data_batch_2.bin") 2 [| 0 |]
                  let test = cifar (path "test_batch.bin") 3 [| 5; 6 |]
                  let read = ImageReader.Read folder
                  Expect.equal read.Train.Labels [| 3; 9; 0 |] "labels"
                  Expect.equal (image read.Train 1) first[1] "pixels"
                  Expect.equal (image read.Train 2) second[0] "pixels"
                  Expect.equal read.Train.Ids[2] "data_batch_2.bin:0" "where"
                  Expect.equal (read.Test.Labels, image read.Test 1) ([| 5; 6 |], test[1]) "test"
                  Expect.equal (read.Train.Channels, read.Train.Height, read.Train.Width) (3, 32, 32) "shape"
                  File.WriteAllLines(path "batches.meta.txt", [| for c in 'a' .. 'j' -> string c |])
                  Expect.equal (ImageReader.Read folder).Train.Classes[3] "d" "names")

          testCase "test files alone are rows"
          <| fun _ ->
              withFolder (fun folder ->
                  cifar (Path.Combine(folder, "test_batch.bin")) 1 [| 1; 2 |] |> ignore
                  let read = ImageReader.Read folder
                  Expect.equal read.Train.Count 2 "rows"
                  Expect.isNull (box read.Test) "no test")

          testCase "IDX: gzipped and not, every byte and label; t10k apart"
          <| fun _ ->
              withFolder (fun folder ->
                  let labels, images = mnist folder "train" 1 6
                  let judged, _ = mnist folder "t10k" 2 4
                  write (Path.Combine(folder, "more-images-idx3-ubyte")) (idxImages 12 12 images[..1])
                  write (Path.Combine(folder, "more-labels-idx1-ubyte")) (idxLabels [| 2; 2 |])
                  let read = ImageReader.Read folder
                  // by name: more-, then train-
                  Expect.equal read.Train.Labels (Array.append [| 2; 2 |] labels) "labels"
                  Expect.equal (image read.Train 5) images[3] "pixels"
                  Expect.equal read.Test.Labels judged "test"
                  Expect.equal read.Train.Classes.Length 3 "classes")

          testCase "a folder a class: PNG exactly, JPEG nearly, names by folder; resized when asked for"
          <| fun _ ->
              withFolder (fun folder ->
                  let path name = Path.Combine(folder, name)
                  picture (path "cats/1.png") 9 8 (fun y x -> byte (20 * y), byte (10 * x), 7uy)
                  picture (path "cats/2.jpg") 9 8 (fun _ _ -> 200uy, 100uy, 50uy)
                  picture (path "dogs/1.jpeg") 9 8 (fun _ _ -> 10uy, 20uy, 30uy)
                  let set = (ImageReader.Read folder).Train
                  Expect.equal (set.Classes, set.Labels) ([| "cats"; "dogs" |], [| 0; 0; 1 |]) "classes"
                  Expect.equal (set.Channels, set.Height, set.Width) (3, 9, 8) "shape"
                  let pixels = image set 0
                  Expect.equal (pixels[8 * 3 + 2], pixels[72 + 8 * 3 + 2], pixels[144]) (60uy, 20uy, 7uy) "planes"
                  let jpeg = image set 1
                  Expect.isLessThan (abs (int jpeg[30] - 200)) 6 "red"
                  Expect.isLessThan (abs (int jpeg[144 + 30] - 50)) 6 "blue"
                  let small = (ImageReader.Read(folder, 4)).Train
                  Expect.equal (small.Height, small.Width, small.Count) (4, 4, 3) "resized")

          testCase "beside train, val judges where there is no test; other folders are named"
          <| fun _ ->
              withFolder (fun folder ->
                  let add split =
                      for c in [ "a"; "b" ] do
                          picture (Path.Combine(folder, split, c, "1.png")) 8 8 (fun _ _ -> 1uy, 2uy, 3uy)

                  for split in [ "train"; "val"; "unlabelled"; ".cache" ] do
                      add split

                  let read = ImageReader.Read folder
                  Expect.equal (read.Test.Count, read.PassedOver) (2, [| "unlabelled" |]) "val"
                  add "test"
                  let read = ImageReader.Read folder
                  Expect.stringContains read.Test.Name "test" "test comes first"
                  Expect.equal read.PassedOver [| "unlabelled"; "val" |] "others")

          testCase "train and test folders"
          <| fun _ ->
              withFolder (fun folder ->
                  for split, count in [ "train", 3; "test", 2 ] do
                      for c in [ "a"; "b" ] do
                          for i in 1..count do
                              picture (Path.Combine(folder, split, c, $"{i}.png")) 8 8 (fun _ _ -> 1uy, 2uy, 3uy)

                  let read = ImageReader.Read folder
                  Expect.equal (read.Train.Count, read.Test.Count) (6, 4) "counts"
                  Directory.Delete(Path.Combine(folder, "test", "a"), true)
                  let lacking = ImageReader.Read folder
                  Expect.equal lacking.Test.Classes lacking.Train.Classes "a test set may lack a class"
                  Expect.equal (Array.distinct lacking.Test.Labels) [| 1 |] "by its name"
                  picture (Path.Combine(folder, "test", "c", "1.png")) 8 8 (fun _ _ -> 1uy, 2uy, 3uy)
                  refused<DataException> [ "c"; "train has not" ] (fun () -> ImageReader.Read folder |> ignore))

          testCase "a pack of JPEGs that share their header"
          <| fun _ ->
              withFolder (fun folder ->
                  let jpeg = Path.Combine(folder, "whole.jpg")
                  picture jpeg 32 32 (fun _ _ -> 120uy, 60uy, 30uy)
                  let bytes = File.ReadAllBytes jpeg
                  File.Delete jpeg
                  let head, body = Array.splitAt 20 bytes

                  let pack (labels: byte[]) =
                      Array.concat
                          [ Encoding.ASCII.GetBytes "CJPK"
                            BitConverter.GetBytes head.Length
                            BitConverter.GetBytes labels.Length
                            head
                            labels
                            Array.collect (fun _ -> BitConverter.GetBytes(uint16 body.Length)) labels
                            Array.collect (fun _ -> body) labels ]

                  let path = Path.Combine(folder, "all.cjpk")
                  write path (pack [| 4uy; 8uy |])
                  let set = (ImageReader.Read folder).Train
                  Expect.equal set.Labels [| 4; 8 |] "labels"
                  Expect.isLessThan (abs (int ((image set 1).[500]) - 120)) 6 "pixels"
                  write path (pack [| 4uy |] |> Array.truncate 200)
                  refused<DataException> [ "all.cjpk"; "whole" ] (fun () -> ImageReader.Read folder |> ignore)) ]

let private bad =
    testList
        "refused"
        [ for name, parts, make in
              [ "an empty folder", [ "no images" ], ignore
                "texts", [ "no images" ], (fun folder -> write (Path.Combine(folder, "a.txt")) [| 1uy |])
                "two kinds",
                [ "two kinds" ],
                (fun folder ->
                    cifar (Path.Combine(folder, "a.bin")) 1 [| 1 |] |> ignore
                    mnist folder "train" 1 4 |> ignore)
                "a cut record",
                [ "a.bin"; "3072 bytes"; "3073" ],
                (fun folder -> write (Path.Combine(folder, "a.bin")) (Array.zeroCreate 3072))
                "a label that is none",
                [ "a.bin"; "record 1"; "label 10" ],
                (fun folder -> cifar (Path.Combine(folder, "a.bin")) 1 [| 1; 10 |] |> ignore)
                "no IDX file",
                [ "x-images-idx3-ubyte"; "0x00000803" ],
                (fun folder ->
                    write (Path.Combine(folder, "x-images-idx3-ubyte")) (idxLabels [| 1; 2 |])
                    write (Path.Combine(folder, "x-labels-idx1-ubyte")) (idxLabels [| 1; 2 |]))
                "an IDX file cut off",
                [ "x-images-idx3-ubyte"; "2 x 12 x 12" ],
                (fun folder ->
                    let whole = idxImages 12 12 (snd (bars 1 2))
                    write (Path.Combine(folder, "x-images-idx3-ubyte")) whole[.. whole.Length - 2]
                    write (Path.Combine(folder, "x-labels-idx1-ubyte")) (idxLabels [| 1; 2 |]))
                "no labels",
                [ "x-images-idx3-ubyte"; "x-labels-idx1-ubyte" ],
                (fun folder -> write (Path.Combine(folder, "x-images-idx3-ubyte")) (idxImages 12 12 (snd (bars 1 2))))
                "labels of another number",
                [ "x-labels-idx1-ubyte"; "3 labels for 2 images" ],
                (fun folder ->
                    write (Path.Combine(folder, "x-images-idx3-ubyte")) (idxImages 12 12 (snd (bars 1 2)))
                    write (Path.Combine(folder, "x-labels-idx1-ubyte")) (idxLabels [| 1; 2; 1 |]))
                "no gzip",
                [ "x-images-idx3-ubyte.gz"; "gzip" ],
                (fun folder -> File.WriteAllBytes(Path.Combine(folder, "x-images-idx3-ubyte.gz"), [| 1uy; 2uy; 3uy |]))
                "no image",
                [ "2.png"; "no image" ],
                (fun folder ->
                    picture (Path.Combine(folder, "a", "1.png")) 8 8 (fun _ _ -> 1uy, 1uy, 1uy)
                    write (Path.Combine(folder, "a", "2.png")) [| 1uy; 2uy; 3uy |])
                "an image cut off",
                [ "1.png"; "cut off" ],
                (fun folder ->
                    let path = Path.Combine(folder, "a", "1.png")
                    let random = Random 1
                    picture path 32 32 (fun _ _ -> byte (random.Next 256), byte (random.Next 256), 1uy)
                    let whole = File.ReadAllBytes path
                    File.WriteAllBytes(path, whole[.. whole.Length / 2]))
                "two sizes",
                [ "2.png"; "9 x 8"; "8 x 8"; "--size" ],
                (fun folder ->
                    picture (Path.Combine(folder, "a", "1.png")) 8 8 (fun _ _ -> 1uy, 1uy, 1uy)
                    picture (Path.Combine(folder, "b", "2.png")) 9 8 (fun _ _ -> 1uy, 1uy, 1uy))
                "a class without images",
                [ "empty"; "no .png or .jpg" ],
                (fun folder ->
                    picture (Path.Combine(folder, "a", "1.png")) 8 8 (fun _ _ -> 1uy, 1uy, 1uy)
                    Directory.CreateDirectory(Path.Combine(folder, "empty")) |> ignore)
                "a test folder without images",
                [ "test"; "no .png or .jpg" ],
                (fun folder ->
                    picture (Path.Combine(folder, "train", "a", "1.png")) 8 8 (fun _ _ -> 1uy, 1uy, 1uy)
                    Directory.CreateDirectory(Path.Combine(folder, "test")) |> ignore)
                "another kind of file",
                [ "notes.gif"; "PNG" ],
                (fun folder ->
                    picture (Path.Combine(folder, "a", "1.png")) 8 8 (fun _ _ -> 1uy, 1uy, 1uy)
                    write (Path.Combine(folder, "a", "notes.gif")) [| 1uy |]) ] do
              testCase name
              <| fun _ ->
                  withFolder (fun folder ->
                      make folder
                      refused<DataException> parts (fun () -> ImageReader.Read folder |> ignore))

          testCase "no folder"
          <| fun _ -> refused<DirectoryNotFoundException> [ "nowhere" ] (fun () -> ImageReader.Read "nowhere" |> ignore) ]

let tests = testList "reader" [ good; bad ]
