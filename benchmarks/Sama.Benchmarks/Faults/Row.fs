namespace Sama.Benchmarks.Faults

/// One fault and what became of it.
type Row =
    { Kind: string
      Case: string
      Passed: bool
      Detail: string }

module Bytes =

    /// True if two files are the same.
    let same (a: string) (b: string) : bool =
        System.MemoryExtensions.SequenceEqual(
            System.ReadOnlySpan(System.IO.File.ReadAllBytes a),
            System.ReadOnlySpan(System.IO.File.ReadAllBytes b)
        )
