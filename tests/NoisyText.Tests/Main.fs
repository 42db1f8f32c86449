module NoisyText.Tests.Main

open System
open System.IO
open Expecto
open NoisyText
open NoisyText.Dataset

let private row label vote text =
    $"{{\"label\":{label},\"weak_labels\":[{vote},-1],\"data\":{{\"text\":\"{text}\"}}}}"

let private good =
    [ "label", "{\"0\":\"a\",\"1\":\"b\"}"
      "train",
      "{\"0\":"
      + row 0 1 "x"
      + ",\"1\":"
      + row 1 -1 "y"
      + ",\"2\":"
      + row 1 1 "t"
      + "}"
      "valid", "{\"0\":" + row 0 0 "v" + "}"
      "test", "{\"0\":" + row 0 0 "t" + "}" ]

/// A folder with these files instead of the good ones; a null leaves one out.
let private withFolder (changes: (string * string) list) action =
    let folder = Directory.CreateTempSubdirectory().FullName

    try
        for name, text in good do
            let text =
                changes
                |> List.tryFind (fst >> (=) name)
                |> Option.map snd
                |> Option.defaultValue text

            if not (isNull text) then
                File.WriteAllText(Path.Combine(folder, name + ".json"), text)

        action folder
    finally
        Directory.Delete(folder, true)

let tests =
    testList
        "NoisyText"
        [ testCase "a good folder is read; unvoted rows and texts of other splits are dropped"
          <| fun _ ->
              withFolder [] (fun folder ->
                  let data = read folder
                  Expect.equal (data.Classes, data.Rules, data.Train.Length) (2, 2, 3) "sizes"
                  Expect.equal (weaklyLabelled 0 data |> Array.map _.Row.Text) [| "x" |] "rows used")

          for name, file, text, word in
              [ "a missing split", "valid", null, "valid.json"
                "wrong json", "test", "{\"0\":", "test.json"
                "an empty split", "train", "{}", "train.json"
                "a label out of range", "train", "{\"7\":" + row 2 0 "x" + "}", "row 7"
                "a vote out of range", "train", "{\"7\":" + row 0 9 "x" + "}", "row 7"
                "a row without text", "valid", "{\"5\":{\"label\":0,\"weak_labels\":[]}}", "row 5" ] do
              testCase $"{name}: file and row are named"
              <| fun _ ->
                  withFolder [ file, text ] (fun folder ->
                      Expect.throwsC (fun () -> read folder |> ignore) (fun e ->
                          Expect.stringContains e.Message file "file"
                          Expect.stringContains e.Message word "place"
                          Expect.isTrue (e :? IOException || e :? InvalidDataException) $"{e.GetType()}"))

          testCase "the generated set is the same for a seed, its rules right about half the time"
          <| fun _ ->
              let data = Generator.generate 3
              Expect.equal (Generator.generate 3) data "same"
              let rows = weaklyLabelled 0 data

              let right =
                  rows |> Array.filter (fun r -> r.WeakLabel = r.Row.Label) |> Array.length

              let share = float right / float rows.Length
              Expect.isTrue (share > 0.45 && share < 0.65) $"{share}" ]

[<EntryPoint>]
let main args = runTestsWithCLIArgs [] args tests
