module Sama.Ranks.Tests.Launcher
let private none = ()
