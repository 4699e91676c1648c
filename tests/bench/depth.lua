-- Whether a claim takes longer out of a million pending builds, beside a million that have ended, than out of a
-- thousand: the server's own statement, in turns.
local Server = require "spec.support.server"
local support = require "tests.bench.support"
local durable = require "tests.bench.durable"
local Claimer = require "tests.bench.claimer"

local ROWS <const> = math.tointeger(tonumber(os.getenv "BENCH_ROWS" or "1000000"))
local FEW <const>, ROUNDS <const>, TIMES <const>, BATCH <const> = 1000, 15, 20, 10

-- A database with the tables, and who claims there.
local function prepare(pending, ended)
  local server = Server.new()
  assert(server:command({ "migrate" }).code == 0)
  durable.fill_many(server.database, pending, ended)
  return { database = server.database, claimer = Claimer.open(server.database), times = {} }
end

return function(report)
  durable.cluster()
  local few, many, ratios = prepare(FEW, 0), prepare(ROWS, ROWS), {}
  for round = 1, ROUNDS do
    -- Each goes first as often as the other, and has as many waiting as before.
    for _, side in ipairs(round % 2 == 0 and { few, many } or { many, few }) do
      side.times[round] = support.median(side.claimer:claim(TIMES, BATCH))
      durable.add(side.database, TIMES * BATCH)
    end
    ratios[round] = many.times[round] / few.times[round]
  end
  report { group = "depth", name = ("a claim of %d, %d pending, %d ended"):format(BATCH, ROWS, ROWS),
    value = support.median(many.times), unit = "ms", beside = ("%d pending"):format(FEW),
    limit = support.median(few.times), ratio = support.median(ratios), aim = 1.3, better = "lower" }
end
