module Sama.DataOptimization.Tests.Main

open Expecto

[<EntryPoint>]
let main args =
    testSequenced (
        testList
            "Sama.DataOptimization"
            [ JudgementTests.tests
              SelectionTests.tests
              ConfidentLearningTests.tests
              VoteTests.tests
              SelfTrainingTests.tests
              PruningTests.tests
              PrunerScoreTests.tests
              PrunerTests.tests
              JudgedTests.tests
              DataTests.tests
              NameTests.tests
              OutFolderTests.tests
              ReportTests.tests
              LearnerTests.tests
              LearningTests.tests
              CleaningTests.tests
              Sama.Tests.LibraryApi.tests typeof<Sama.DataOptimization.Selection>.Assembly ]
    )
    |> runTestsWithCLIArgs [] args
