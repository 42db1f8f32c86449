module Sama.Ranks.Tests.RankTests
let private none = ()
