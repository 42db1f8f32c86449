module Sama.DataPruning.Tests.Main

open Expecto

[<EntryPoint>]
let main args =
    testSequenced (
        testList
            "Sama.DataPruning"
            [ ReaderTests.tests
              ClassifierTests.tests
              PruningTests.tests
              ExampleTests.tests
              Sama.Tests.LibraryApi.tests typeof<Sama.DataPruning.DataPruning>.Assembly ]
    )
    |> runTestsWithCLIArgs [] args
