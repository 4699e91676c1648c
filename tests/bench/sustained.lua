-- Builds that come at a steady rate for a minute: from enqueue to finish, p50 and p99; and the same while another
-- session holds a snapshot open, so that PostgreSQL can clean nothing up. They come by plain INSERTs of one session,
-- every two milliseconds as many as are due. What has not finished when as much time again is over counts as old as it
-- is then.
local process = require "spec.support.process"
local postgres = require "spec.support.postgres"
local sessions = require "spec.support.sessions"
local durable = require "tests.bench.durable"

local SECONDS <const> = tonumber(os.getenv "BENCH_SECONDS" or "60")
local RATES <const> = { 800, 5000 }
local AIM_MS <const>, SNAPSHOT_AIM <const>, LAST_SECONDS <const> = 20, 1.2, 10

-- The time is the row's own: one statement lasts as long as the run.
local OFFER <const> = [[
create procedure bench_offer(rate integer, seconds double precision, inout offered bigint, inout took double precision)
language plpgsql as $body$
declare
  began timestamptz := clock_timestamp();
  due bigint;
begin
  offered := 0;
  loop
    took := extract(epoch from clock_timestamp() - began);
    due := floor(rate * least(took, seconds));
    insert into build_queue (customer_id, customer_name, customer_email, manifest_path, configuration_name, tier,
      architecture, cloud_provider, priority, pipeline, manifest_hash, enqueued_at)
    select 'c' || i % 100, 'Customer', 'c@example.org', '', 'main', 'pro', 'linux-x64', 'aws', i % 4, 'noop', 'bench',
      clock_timestamp()
    from generate_series(offered + 1, due) as i;
    commit;
    offered := due;
    exit when took >= seconds;
    perform pg_sleep(0.002);
  end loop;
end $body$;
]]

local FIGURES <const> = [[
select percentile_cont(0.5) within group (order by ms), percentile_cont(0.99) within group (order by ms),
  count(*) filter (where status = 'success') / extract(epoch from max(completed_at) - min(enqueued_at))
from build_queue cross join lateral
  (select extract(epoch from coalesce(completed_at, buildq_now()) - enqueued_at) * 1000) as age(ms)]]

---@class Sustained
---@field p50 number ms
---@field p99 number ms
---@field offered number builds a second that came
---@field carried number builds a second from the first enqueue to the last finish

local function await_end(server)
  local watcher = sessions.open(server.database)
  pcall(process.wait_for, function()
    assert(server.child:alive(), "the server ended")
    process.pump(200)
    return watcher:ask "select exists (select from build_queue where status in ('pending', 'building'))" == "f"
  end, math.max(SECONDS, LAST_SECONDS))
  return watcher
end

---@return Sustained
local function measure(rate, is_held)
  local server = durable.server { config = { BuildQueue = { MaxConcurrentBuilds = 1000 } } }
  server:launch()
  durable.fill(server.database, 100) -- the first ones warm it up
  await_end(server)
  server:sql "delete from build_queue"
  postgres.sql(server.database, OFFER .. "vacuum analyze; checkpoint;")
  local holder = sessions.open(server.database)
  if is_held then
    holder:ask "begin isolation level repeatable read"
    assert(holder:ask "select count(*) from build_queue" == "0")
  end
  local offer = sessions.open(server.database)
  offer:send(("call bench_offer(%d, %g, null, null)"):format(rate, SECONDS))
  process.wait_for(function() return offer:done() end, SECONDS * 3 + 60, "the last build to come")
  local offered, took = offer.answer:match "^(%d+)|([%d.]+)$"
  assert(took, offer.answer)
  local watcher = await_end(server)
  if is_held then assert(holder:ask "select count(*) from build_queue" == "0", "the snapshot was not held") end
  local p50, p99, carried = watcher:ask(FIGURES):match "^([%d.]+)|([%d.]+)|([%d.]+)$"
  holder:ask "rollback"
  server:stop(60)
  return { p50 = tonumber(p50), p99 = tonumber(p99), offered = offered / took, carried = tonumber(carried) }
end

return function(report)
  local before ---@type Sustained at the rate before
  for _, rate in ipairs(RATES) do
    local free, held = measure(rate), measure(rate, true)
    local function row(name, value, unit, beside, limit, aim, better)
      report { group = "sustained", name = ("%d/s for %g s, %s"):format(rate, SECONDS, name), value = value,
        unit = unit, beside = beside, limit = limit, ratio = value / limit, aim = aim, better = better or "lower" }
    end
    row("offered", free.offered, "/s", "what was to be offered", rate, 0.99, "higher")
    row("carried", free.carried, "/s", "what was offered", free.offered, 0.99, "higher")
    for _, share in ipairs { "p50", "p99" } do
      if before then row(share, free[share], "ms", ("at %d/s"):format(RATES[1]), before[share], 2)
      else row(share, free[share], "ms", "what it is to be below", AIM_MS, 1) end
      row(share .. ", a snapshot held", held[share], "ms", "without", free[share], SNAPSHOT_AIM)
    end
    before = free
  end
end
