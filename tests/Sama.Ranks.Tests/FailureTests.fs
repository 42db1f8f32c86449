module Sama.Ranks.Tests.FailureTests
let private none = ()
