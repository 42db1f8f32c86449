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
              RuleMisuseTests.tests
              SamaTests.tests
              RunTests.tests
              DeviceTests.tests
              MethodTests.tests
              ReferenceTests.tests
              SuiteTests.tests
              DrawnProblemTests.tests
              HandWrittenTests.tests
              MethodInputTests.tests
              ProductTests.tests
              LearnedTests.tests
              MetagradientTests.tests
              DescentTests.tests
              FixtureTests.tests
              EngineTests.tests
              LevelGraphTests.tests
              DataTests.tests
              CheckpointTests.tests
              GuardTests.tests
              TelemetryTests.tests
              TrainerTests.tests
              NormTests.tests
              DrawTests.tests
              TraceTests.tests
              ScheduleTests.tests
              GroupTests.tests
              KernelTests.tests
              WindowTests.tests
              DefaultTests.tests
              MatrixTests.tests ]
    )
    |> runTestsWithCLIArgs [] args
