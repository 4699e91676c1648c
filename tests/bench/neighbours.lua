-- The API's answers beside hostile pipelines, and without them.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local support = require "tests.bench.support"

local REQUESTS <const> = 2000
local AIM_MS <const> = 20

local HOSTILE <const> = {
  "while true do end",
  "while true do pcall(function() while true do end end) end",
  "local t = {} while true do t[#t + 1] = ('x'):rep(1024) .. #t end",
  "while true do (('a'):rep(40)):find(('a?'):rep(40) .. ('a'):rep(40)) end",
  "while true do local t = {} for i = 1, 1e5 do t[i] = i end table.sort(t) end",
  "while true do string.gsub('x', 'x', function() while true do end end) end",
}

-- p99 in ms. `each` is called now and then.
local function measure(server, each)
  local get, times = support.client(server.address), {}
  for i = 1, REQUESTS do
    if each and i % 50 == 1 then each() end
    local status, _, seconds = get "/builds?limit=1"
    assert(status == 200, status)
    times[i] = seconds * 1000
  end
  return support.percentile(times, 0.99)
end

return function(report)
  local scripts = {}
  for i, lines in ipairs(HOSTILE) do
    scripts[("pipelines/hostile-%d.lua"):format(i)] = ("return { run = function(build) %s end }"):format(lines)
  end
  local server = Server.start {
    config = { BuildQueue = { MaxConcurrentBuilds = 4, MaxRetryAttempts = 0, LuaCpuSeconds = 5,
      GracefulShutdownTimeoutSeconds = 0 } },
    scripts = builds.scripts(scripts),
  }
  local alone = measure(server)
  local submitted = 0
  local beside = measure(server, function() -- so that there always are some
    local waiting = server:get("/builds?status=pending&limit=10").json
    if #waiting.builds >= 8 then return end
    for _ = 1, 2 do
      submitted = submitted + 1
      builds.submit(server, { pipeline = "hostile-" .. (submitted - 1) % #HOSTILE + 1 })
    end
  end)
  server:stop(60)
  report { group = "API", name = ("p99 beside %d hostile builds, 4 at a time"):format(submitted), value = beside,
    unit = "ms", beside = ("alone %.1f ms and %d"):format(alone, AIM_MS), limit = alone + AIM_MS,
    ratio = beside / (alone + AIM_MS), aim = 1, better = "lower" }
end
