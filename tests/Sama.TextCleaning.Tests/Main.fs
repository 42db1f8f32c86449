module Sama.TextCleaning.Tests.Main

open Expecto

[<EntryPoint>]
let main args =
    testSequenced (testList "Sama.TextCleaning" [ EncoderTests.tests; CleaningTests.tests ])
    |> runTestsWithCLIArgs [] args
