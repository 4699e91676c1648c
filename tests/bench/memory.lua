-- Resident memory of the server, its database beside it: idle, and for each of a thousand builds that sleep.
local process = require "spec.support.process"
local durable = require "tests.bench.durable"

local BUILDS <const>, IDLE_MB <const>, EACH_KB <const> = 1000, 20, 256
local ASLEEP <const> = [[return { run = function() require("buildq").sleep(600) end }]]

local function resident_kb(pid)
  return tonumber(process.read(("/proc/%d/status"):format(pid)):match "VmRSS:%s+(%d+)")
end

return function(report)
  local server = durable.server { scripts = { ["pipelines/asleep.lua"] = ASLEEP },
    config = { BuildQueue = { MaxConcurrentBuilds = BUILDS, GracefulShutdownTimeoutSeconds = 0 } } }
  server:launch()
  local idle = resident_kb(server.child.pid)
  report { group = "memory", name = "idle, without the database", value = idle / 1024, unit = "MB",
    beside = "what it is to stay below", limit = IDLE_MB, ratio = idle / 1024 / IDLE_MB, aim = 1, better = "lower" }
  server:sql "update queue_control set paused = true"
  durable.fill(server.database, BUILDS, "asleep")
  server:sql "update queue_control set paused = false"
  server:wait_for(function()
    return server:get("/metrics").body:find(("\nbuildq_running_builds %d\n"):format(BUILDS), 1, true)
  end, 60, "all builds to be asleep")
  local each = (resident_kb(server.child.pid) - idle) / BUILDS
  report { group = "memory", name = ("each of %d builds asleep"):format(BUILDS), value = each, unit = "KB",
    beside = "what it is to stay below", limit = EACH_KB, ratio = each / EACH_KB, aim = 1, better = "lower" }
  server:stop(60)
end
