-- Jobs a second of one, two and four servers on one database.
local support = require "tests.bench.support"
local durable = require "tests.bench.durable"

local JOBS <const> = math.tointeger(tonumber(os.getenv "BENCH_JOBS" or "20000")) // 2

local function measure(count)
  local config = { BuildQueue = { MaxConcurrentBuilds = 1000 // count } }
  local servers = { durable.server { config = config } }
  assert(servers[1]:command({ "migrate" }).code == 0)
  servers[1]:sql "update queue_control set paused = true"
  durable.fill(servers[1].database, JOBS)
  for i = 2, count do servers[i] = durable.server { config = config, database = servers[1].database } end
  for _, server in ipairs(servers) do server:launch() end
  local rate = durable.drain(servers[1])
  for _, server in ipairs(servers) do server:stop(60) end
  return rate
end

return function(report)
  local rates, ratios = { [1] = {}, [2] = {}, [4] = {} }, { [2] = {}, [4] = {} }
  for round = 1, 3 do
    for _, count in ipairs { 1, 2, 4 } do rates[count][round] = measure(count) end
    for count, list in pairs(ratios) do list[round] = rates[count][round] / rates[1][round] end
  end
  for _, count in ipairs { 2, 4 } do
    report { group = "servers", name = count .. " on one database, jobs", value = support.median(rates[count]),
      unit = "/s", beside = "one", limit = support.median(rates[1]), ratio = support.median(ratios[count]), aim = 0.9,
      better = "higher" }
  end
end
