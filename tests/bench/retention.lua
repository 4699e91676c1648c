-- A million builds that ended long ago are removed by a server, with their attempts, while it removes their history
-- too: builds a second, beside a loop in PostgreSQL that deletes 5,000 at a time from the same tables; and how long
-- claims take meanwhile, beside before. The claims are another node's.
local process = require "spec.support.process"
local postgres = require "spec.support.postgres"
local support = require "tests.bench.support"
local durable = require "tests.bench.durable"
local Claimer = require "tests.bench.claimer"

local ROWS <const> = math.tointeger(tonumber(os.getenv "BENCH_ROWS" or "1000000"))
local DAYS <const>, SECONDS <const> = 40, 3600
local PENDING <const>, TIMES <const>, PAUSE <const> = 20000, 50, 0.02 -- of claims of one build each

local LIMIT <const> = [[
create procedure bench_remove(wanted bigint, days integer) language plpgsql as $body$
declare
  removed bigint := 0;
  many bigint;
begin
  while removed < wanted loop
    delete from build_queue where id in (select id from build_queue
      where completed_at < buildq_now() - make_interval(days => days) order by completed_at
      limit least(5000, wanted - removed));
    get diagnostics many = row_count;
    removed := removed + many;
    commit;
  end loop;
end $body$;
]]

-- Builds a second, of a tenth of all.
local function limit(database)
  local output = postgres.sql(database, ("%s\\timing on\ncall bench_remove(%d, 1);"):format(LIMIT, ROWS // 10), SECONDS)
  local ms
  for time in output:gmatch "Time: ([%d.]+) ms" do ms = tonumber(time) end
  return ROWS // 10 / ms * 1000
end

-- Claims until `enough` says so; p99 in ms.
local function claim(claimer, enough)
  local times = {}
  repeat
    for _, ms in ipairs(claimer:claim(TIMES, 1, PAUSE)) do times[#times + 1] = ms end
  until enough(#times)
  return support.percentile(times, 0.99), #times
end

-- What the server says it has removed since its start: builds, and those a second after the first batch.
local function removed(server)
  local total, first, began, ended = 0, 0, nil, nil
  local log = process.read(server:log_path()):sub(server.log_from + 1)
  for hour, minute, second, count in log:gmatch "T(%d+):(%d+):([%d.]+)Z info  removed builds[^\n]- builds=(%d+)" do
    total = total + math.tointeger(tonumber(count))
    ended = hour * 3600 + minute * 60 + second
    if not began then first, began = total, ended end
    if ended < began then ended = ended + 86400 end -- midnight
  end
  return total, began and total > first and (total - first) / (ended - began) or 0
end

-- A server that takes no builds, and does all else.
local function launch(server)
  server:sql "update queue_control set paused = true"
  server:launch()
  local node = server:sql "select id from nodes where state = 'live' and url <> 'http://localhost'"
  assert(server:post(("/nodes/%s/drain"):format(node)).status == 200)
  server:sql "update queue_control set paused = false"
end

return function(report)
  local server = durable.server { config = { BuildQueue = { CompletedBuildRetentionDays = 1,
    HistoryRetentionDays = 1 } } }
  assert(server:command({ "migrate" }).code == 0)
  server:sql "update queue_control set retention_allowed = false"
  durable.fill_many(server.database, PENDING, ROWS, DAYS)
  local allowed = limit(server.database)
  launch(server)
  local claimer = Claimer.open(server.database)
  local before = claim(claimer, function(count) return count >= 500 end)
  server:stop()
  server:sql "update queue_control set retention_allowed = true"
  launch(server) -- it begins at once
  local wanted = ROWS - ROWS // 10
  local function is_over() return removed(server) == wanted end
  local meanwhile, claims = claim(claimer, function(count) return count > PENDING - 1000 or is_over() end)
  server:wait_for(is_over, SECONDS, "the last build to be removed")
  local _, rate = removed(server)
  server:stop(60)
  report { group = "retention", name = ("%d ended builds removed"):format(wanted), value = rate, unit = "/s",
    beside = "deleted in a loop, 5,000 at a time", limit = allowed, ratio = rate / allowed, aim = 0.5,
    better = "higher" }
  report { group = "retention", name = ("a claim meanwhile, p99 of %d"):format(claims), value = meanwhile, unit = "ms",
    beside = "before", limit = before, ratio = meanwhile / before, aim = 2, better = "lower" }
end
