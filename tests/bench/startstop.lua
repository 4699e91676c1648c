-- From the start of the server to ready, and from SIGTERM to its end, on a database that has builds already; beside
-- PostgreSQL's own, with the same database.
local uv = require "luv"
local postgres = require "spec.support.postgres"
local support = require "tests.bench.support"
local durable = require "tests.bench.durable"

local ROUNDS <const>, ENDED <const> = 9, 10000

local function milliseconds(fn, ...)
  local began = uv.hrtime()
  fn(...)
  return (uv.hrtime() - began) / 1e6
end

return function(report)
  local server = durable.server { config = { BuildQueue = { GracefulShutdownTimeoutSeconds = 5 } } }
  server:launch()
  durable.fill_many(server.database, 0, ENDED)
  server:stop()
  local ours, theirs, ratios = { {}, {} }, { {}, {} }, { {}, {} }
  for round = 1, ROUNDS do
    theirs[2][round] = milliseconds(postgres.stop, "sigint")
    theirs[1][round] = milliseconds(postgres.restart)
    ours[1][round] = milliseconds(server.launch, server)
    ours[2][round] = milliseconds(server.stop, server)
    for i = 1, 2 do ratios[i][round] = ours[i][round] / theirs[i][round] end
  end
  for i, row in ipairs { { name = "start to ready", aim = 2 }, { name = "stop", aim = 1 } } do
    report { group = "startstop", name = row.name, value = support.median(ours[i]), unit = "ms",
      beside = "PostgreSQL's own", limit = support.median(theirs[i]), ratio = support.median(ratios[i]), aim = row.aim,
      better = "lower" }
  end
end
