using Expecto.CSharp;
using Sama;
using Sama.Tests;

Native.Initialize();
return Runner.RunTestsWithCLIArgs(
    [],
    ["--sequenced", .. args],
    Runner.TestList("Sama.CSharp", [
        .. SolverTests.All,
        .. CheckpointTests.All,
        .. TrainerTests.All,
        .. ModuleTests.All,
        .. CustomTests.All,
        .. MisuseTests.All,
        .. ParityTests.All,
        .. MetagradientTests.All,
        .. DefaultTests.All,
        Runner.TestList("situations", [
            .. ReportedSituations.All, .. StateSituations.All, .. WindowSituations.All, .. DataSituations.All, .. OtherSituations.All,
            .. ContractSituations.All,
        ]),
        .. ApiTests.All,
        .. LanguageTests.All,
        .. RepositoryTests.All,
        .. TrainingServiceTests.All,
    ]));
