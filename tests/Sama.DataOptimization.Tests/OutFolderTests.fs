/// What a run writes to: nothing that it reads, and nothing of others'.
module Sama.DataOptimization.Tests.OutFolderTests

open System
open System.Collections.Generic
open System.IO
open Expecto
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let private withFolder (test: string -> unit) =
    let folder = Directory.CreateTempSubdirectory("sama-out").FullName

    try
        test folder
    finally
        Directory.Delete(folder, recursive = true)

let private outOf (path: string) =
    OutFolder(path, [| "rows.jsonl"; "model" |], "mark.txt")

let private reads (path: string) = [ KeyValuePair("--train", path) ]

let tests =
    testList
        "out folder"
        [ testCase "what is read is not written over, whatever way it is named; what lies beside it is fine"
          <| fun _ ->
              withFolder (fun folder ->
                  let inside name = Path.Combine(folder, name)
                  let relative = Path.GetRelativePath(Environment.CurrentDirectory, folder)

                  for out in [ folder; folder + "/"; relative; Path.Combine(folder, "x", "..") ] do
                      for name in
                          [ "rows.jsonl"
                            "model"
                            "model/"
                            "model/config.json"
                            "state/mark.txt"
                            "state" ] do
                          refused<ArgumentException> [ "--train"; "--out" ] (fun () ->
                              (outOf out).Require(reads (inside name)))

                          refused<ArgumentException> [ "--train" ] (fun () ->
                              (outOf out).Require(reads (Path.Combine(relative, name))))

                      for name in [ "rows.csv"; "models"; "rows.jsonl.gz"; "x/rows.jsonl"; ".." ] do
                          (outOf out).Require(reads (inside name))

                      (outOf out).Require(reads null))

          testCase "state/ of another's is neither removed nor used; a run's own, and an empty one, are"
          <| fun _ ->
              withFolder (fun folder ->
                  let out = outOf folder
                  Directory.CreateDirectory out.State |> ignore
                  out.Require []
                  let theirs = Path.Combine(out.State, "precious.txt")
                  File.WriteAllText(theirs, "mine")
                  refused<ArgumentException> [ out.State; "--out" ] (fun () -> out.Require [])
                  Expect.equal (File.ReadAllText theirs) "mine" "kept"
                  File.WriteAllText(Path.Combine(out.State, "mark.txt"), "")
                  out.Require []
                  out.Begin true
                  Expect.isTrue (File.Exists theirs) "it goes on"
                  out.Begin false
                  Expect.isEmpty (Directory.GetFiles out.State) "it begins anew"
                  out.End()
                  Expect.isFalse (Directory.Exists out.State) "it ends")

          testCase "a file is no folder, and a folder is needed"
          <| fun _ ->
              withFolder (fun folder ->
                  let path = Path.Combine(folder, "file")
                  File.WriteAllText(path, "mine")
                  refused<ArgumentException> [ path; "is a file" ] (fun () -> (outOf path).Require [])

                  for none in [ null; "" ] do
                      refused<ArgumentException> [ "--out" ] (fun () -> outOf none |> ignore)) ]
