module Sama.Ranks.Tests.Failures
let private none = ()
