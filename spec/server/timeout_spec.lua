-- BuildTimeoutMinutes. Its smallest value is a minute, so this file takes one.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

describe("a build that runs too long", function()
  it("is timed out, with its processes, and not tried again", function()
    local server = Server.start {
      config = { BuildQueue = { BuildTimeoutMinutes = 1, StopGraceSeconds = 1 } },
      scripts = builds.scripts {
        ["pipelines/endless.lua"] = [[
          return { run = function(build)
            build:defer(function() build:log "deferred ran" end)
            build:exec { argv = { "sleep", "86399.25" } }
          end }
        ]],
      },
    }
    local id = builds.submit(server, { pipeline = "endless" })
    local build = builds.await(server, id, "timedout", 110)
    assert.equal(1, build.attempt)
    assert.truthy(build.errorMessage:find("BuildTimeoutMinutes", 1, true), build.errorMessage)
    assert.truthy(builds.log(server, id):find("deferred ran", 1, true))
    assert.equal("0\n", io.popen("exec pgrep -fc 'sleep 86399[.]25$'"):read "a")
    server:stop()
  end)
end)
