namespace Sama.Benchmarks.Faults

/// One fault and what became of it.
type Row =
    { Kind: string
      Case: string
      Passed: bool
      Detail: string }
