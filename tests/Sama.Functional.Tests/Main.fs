module Sama.Tests.Main

open Expecto
open Sama.Functional
open Sama.Tests

[<EntryPoint>]
let main args =
    Native.initialize ()
    // shared tensors are made here, outside every test's scope
    Problems.A.numel () |> ignore

    testSequenced (
        testList
            "Sama"
            [ NativeTests.tests
              RuleTests.tests
              RuleKernelTests.tests
              RuleFixtureTests.tests
              SamaTests.tests
              RunTests.tests
              MethodTests.tests
              EngineTests.tests ]
    )
    |> runTestsWithCLIArgs [] args
