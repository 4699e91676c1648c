-- Programs that a build starts one after the other in its sandbox, a second; beside a loop in C that starts bwrap with
-- the same arguments and does nothing else.
local process = require "spec.support.process"
local builds = require "spec.support.builds"
local Server = require "spec.support.server"
local support = require "tests.bench.support"
local durable = require "tests.bench.durable"

local COUNT <const> = math.tointeger(tonumber(os.getenv "BENCH_EXECS" or "200"))
local ROUNDS <const> = 5

local PIPELINE <const> = ([[
  local clock = require("buildq").clock
  return { run = function(build)
    build:exec { argv = { "true" } }
    local began = clock.monotonic()
    for _ = 1, %d do build:exec { argv = { "true" } } end
    build:log(("rate %%.3f"):format(%d / (clock.monotonic() - began)))
  end }
]]):format(COUNT, COUNT)

-- As whom the server starts its sandboxes.
local function limit(directory)
  local program = ("%s/tests/bench_spawn"):format(os.getenv "BUILDQ_BUILD" or "build")
  local argv = { program, directory, tostring(COUNT) }
  local output = process.check(argv, { user = process.ordinary_user(), seconds = 120 })
  return assert(tonumber(output), output)
end

return function(report)
  if not support.has "bwrap" then return "bwrap is not installed" end
  local server = Server.start { scripts = { ["pipelines/execs.lua"] = PIPELINE },
    config = { BuildQueue = { MaxRetryAttempts = 0, EnableNotifications = false } } }
  local ours, limits, ratios = {}, {}, {}
  for round = 1, ROUNDS do
    local id = builds.submit(server, { pipeline = "execs" })
    durable.wait(server) -- who asks again and again takes a core from it
    builds.await(server, id, "success")
    ours[round] = assert(tonumber(builds.log(server, id):match "rate ([%d.]+)"))
    limits[round] = limit(server.directory .. "/builds")
    ratios[round] = ours[round] / limits[round]
  end
  server:stop()
  report { group = "exec", name = "build:exec of true", value = support.median(ours), unit = "/s",
    beside = "bwrap, same arguments, posix_spawn in C", limit = support.median(limits), ratio = support.median(ratios),
    aim = 0.9, better = "higher" }
end
