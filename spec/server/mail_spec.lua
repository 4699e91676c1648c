-- What customers are told: owed with the change of a build, sent once, kept until it is sent.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local PIPELINES <const> = builds.scripts {
  ["pipelines/noop.lua"] = "return { run = function() end }\n",
}

describe("without a mail server, mails", function()
  local server
  lazy_setup(function() server = Server.start { scripts = PIPELINES } end)
  lazy_teardown(function() server:stop() end)

  it("become files", function()
    builds.submit(server)
    server:wait_for(function() return server:sql "select count(*) from deliveries where state = 'sent'" == "3" end, 20,
      function() return server:sql "select event, state, fault, last_reply from deliveries" end)
    print(process.check { "sh", "-c", "cd " .. server.directory .. "/state/outbox && ls -l && head -20 *completed*" })
  end)
end)
