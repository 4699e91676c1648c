-- What `buildq test` gives busted as its helper: each test leaves a clean runtime to the next.
local busted = require "busted"
local test = require "buildq.test"

busted.subscribe({ "test", "end" }, function()
  test.finish()
  test.reset()
  return nil, true
end)
