-- Jobs a second: a pipeline of one step that does nothing, claimed, run and finished, durably, with leases and
-- history. Beside it the limit, a plpgsql loop that only claims and finishes, 500 rows at a time, with the same rows of
-- history in the same tables and no triggers of ours; and graphile-worker, when npm can bring it.
local postgres = require "spec.support.postgres"
local support = require "tests.bench.support"
local durable = require "tests.bench.durable"
local graphile = require "tests.bench.graphile"

local JOBS <const> = math.tointeger(tonumber(os.getenv "BENCH_JOBS" or "20000"))
local ROUNDS <const> = math.tointeger(tonumber(os.getenv "BENCH_ROUNDS" or "3"))

-- What the triggers do for plain writers is written by the loop itself, for 500 rows at once.
local LIMIT <const> = [[
set enable_hashjoin = off; -- rows by their place, whatever the statistics say
set enable_mergejoin = off;
drop trigger buildq_before_update on build_queue;
drop trigger buildq_after_update on build_queue;
create procedure bench_limit(many integer) language plpgsql as $body$
declare
  the_node uuid := gen_random_uuid();
  ids uuid[];
  low bigint := 0;
begin
  loop
    with due as (
      select ctid from build_queue where status = 'pending' and claim_key >= low order by claim_key limit many
      for update skip locked
    ), started as (
      update build_queue b set status = 'building', node_id = the_node, attempt = attempt + 1,
        started_at = buildq_now(), updated_at = buildq_now(), event_seq = event_seq + 1, generation = 'bench'
      from due where b.ctid = due.ctid
      returning b.id, b.attempt, b.event_seq, b.round, b.claim_key
    ), noted as (
      insert into build_attempts (build_id, attempt, node_id, generation, started_at)
      select id, attempt, the_node, 'bench', buildq_now() from started
    ), told as (
      insert into build_events (build_id, seq, at, type, attempt, round, data)
      select id, event_seq, buildq_now(), 'started', attempt, round, jsonb_build_object('node', the_node) from started
    )
    select array_agg(id), max(claim_key) into ids, low from started;
    commit;
    exit when ids is null;
    with ended as (
      update build_queue b set status = 'success', progress_percent = 100, completed_at = buildq_now(), node_id = null,
        build_duration_seconds = buildq_seconds_since(started_at), updated_at = buildq_now(), event_seq = event_seq + 1,
        current_step = 'Build complete'
      from unnest(ids) as held(id) where b.id = held.id and node_id = the_node
      returning b.id, attempt, event_seq, round
    ), noted as (
      update build_attempts a set ended_at = buildq_now(), outcome = 'success', progress = 100
      from ended where a.build_id = ended.id and a.attempt = ended.attempt
    )
    insert into build_events (build_id, seq, at, type, attempt, round, data)
    select id, event_seq, buildq_now(), 'success', attempt, round, '{}' from ended;
    commit;
  end loop;
end $body$;
]]

local function limit(database)
  local output = postgres.sql(database, LIMIT .. "\\timing on\ncall bench_limit(500);")
  local ms = tonumber(output:match "Time: ([%d.]+) ms")
  assert(postgres.sql(database, "select count(*) from build_queue where status = 'success'") == tostring(JOBS))
  return JOBS / ms * 1000
end

return function(report)
  local rates = { ours = {}, limit = {}, ordinary = {}, batched = {} }
  local ratios = { limit = {}, ordinary = {}, batched = {} }
  local server = durable.server { config = { BuildQueue = { MaxConcurrentBuilds = 1000 } } }
  assert(server:command({ "migrate" }).code == 0)
  postgres.sql(server.database, "update queue_control set paused = true")
  durable.fill(server.database, JOBS)
  local template = server.database
  local directory = graphile.directory()
  for round = 1, ROUNDS do
    local name = ("limit%d"):format(round)
    postgres.sql("postgres", ("create database %s template %s"):format(name, template))
    rates.limit[round] = limit(name)
    postgres.sql("postgres", "drop database " .. name)
    name = ("ours%d"):format(round)
    postgres.sql("postgres", ("create database %s template %s"):format(name, template))
    server = durable.server { database = name, config = { BuildQueue = { MaxConcurrentBuilds = 1000 } } }
    server:launch()
    rates.ours[round] = durable.drain(server)
    assert(server:sql "select count(*) from build_queue where status = 'success'" == tostring(JOBS))
    server:stop(60)
    for _, mode in ipairs(directory and { "ordinary", "batched" } or {}) do
      local jobs = tostring(mode == "batched" and JOBS or JOBS // 4)
      rates[mode][round] = assert(tonumber((graphile.run(directory, mode, jobs))))
      ratios[mode][round] = rates.ours[round] / rates[mode][round]
    end
    ratios.limit[round] = rates.ours[round] / rates.limit[round]
  end
  local function row(beside, key, aim)
    report { group = "jobs", name = "claim, run a no-op, finish", value = support.median(rates.ours), unit = "/s",
      beside = beside, limit = support.median(rates[key]), ratio = support.median(ratios[key]), aim = aim,
      better = "higher" }
  end
  row("the plpgsql loop, 500 at a time", "limit", 0.75)
  if not directory then return "npm can't bring graphile-worker: its two rows" end
  row("graphile-worker", "ordinary", 1)
  row("graphile-worker, local queue 500, batched", "batched", 1)
end
