module Sama.Language.Tests.Main

open Expecto
open Sama.Functional

[<EntryPoint>]
let main args =
    Native.initialize ()

    testSequenced (
        testList
            "Sama.Language"
            [ SafetensorsTests.tests
              ConfigTests.tests
              TokenizerTests.tests
              EncoderTests.tests
              AdapterTests.tests
              AuxiliaryTests.tests
              MisuseTests.tests
              BilevelTests.tests
              SurfaceTests.tests
              FixtureTests.tests ]
    )
    |> runTestsWithCLIArgs [] args
