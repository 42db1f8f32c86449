module Sama.Tests.Watching

open System

/// Sees every report at once, on the thread that makes it.
let watching (see: 'report -> unit) : IProgress<'report> =
    { new IProgress<'report> with
        member _.Report report = see report }
