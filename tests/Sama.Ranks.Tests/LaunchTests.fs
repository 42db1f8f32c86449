module Sama.Ranks.Tests.LaunchTests
let private none = ()
