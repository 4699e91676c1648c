-- A durable cluster for the groups that measure the queue, and builds that wait in it.
local process = require "spec.support.process"
local postgres = require "spec.support.postgres"
local Server = require "spec.support.server"

local durable = {}

--- What the cluster of this room is started with: PostgreSQL's own durable defaults, with room for what is written.
local SETTINGS <const> = { "max_connections=300", "shared_buffers=512MB", "max_wal_size=8GB",
  "checkpoint_timeout=30min", "autovacuum_naptime=5s" }

--- The pipeline of all groups: one step that does nothing.
local NOOP <const> = [[return { run = function(build) build:step("Only", function() end) end }]]

--- Before the first database of a group; the second call finds the cluster running.
function durable.cluster() pcall(postgres.use, SETTINGS) end

--- A server that has not been started, with the cluster behind it.
---@param options? ServerOptions
---@return Server
function durable.server(options)
  options = options or {}
  if not options.database then durable.cluster() end
  options.scripts = options.scripts or {}
  options.scripts["pipelines/noop.lua"] = NOOP
  options.config = options.config or {}
  options.config.BuildQueue = options.config.BuildQueue or {}
  options.config.BuildQueue.EnableNotifications = false -- nobody's mails are measured here
  return Server.new(options)
end

-- As POST /builds leaves them: their manifest is kept, their pipeline known.
local FILL <const> = [[
insert into build_manifests (hash, content) values ('bench', '{"version": "1.0", "name": "bench"}')
  on conflict do nothing;
insert into build_queue (id, customer_id, customer_name, customer_email, manifest_path, configuration_name, tier,
    architecture, cloud_provider, priority, pipeline, manifest_hash)
  select gen_random_uuid(), 'c' || i %% 100, 'Customer', 'c@example.org', '', 'main', 'pro', 'linux-x64', 'aws', i %% 4,
    '%s', 'bench'
  from generate_series(1, %d) as i;
]]

--- Puts builds into the queue.
---@param database string
---@param count integer
---@param pipeline? string noop
function durable.add(database, count, pipeline) postgres.sql(database, FILL:format(pipeline or "noop", count)) end

--- The same before a measurement: tables and disk are tidy afterwards.
---@param database string
---@param count integer
---@param pipeline? string noop
function durable.fill(database, count, pipeline)
  postgres.sql(database, FILL:format(pipeline or "noop", count) .. "vacuum analyze build_queue;\ncheckpoint;")
end

-- Many at once, as our own statements leave them: no trigger's call for each. One that waits has come in the last hour;
-- one that has ended, its attempt and its history are of the day that is given.
local MANY <const> = [[
insert into build_manifests (hash, content) values ('bench', '{"version": "1.0", "name": "bench"}')
  on conflict do nothing;
create temp table made as
  select gen_random_uuid() as id, i, case when i <= %d then 'pending' else 'success' end as status, i %% 4 as priority,
    case when i <= %d then buildq_now() - interval '1 hour' + i * interval '1 ms'
      else buildq_now() - make_interval(days => %d) - i * interval '1 ms' end as at
  from generate_series(1, %d) as i;
insert into build_queue (id, customer_id, customer_name, customer_email, manifest_path, configuration_name, tier,
    architecture, cloud_provider, priority, pipeline, manifest_hash, status, enqueued_at, claim_key, told, event_seq,
    attempt, generation, started_at, completed_at, build_duration_seconds, progress_percent, current_step)
  select id, 'c' || i %% 100, 'Customer', 'c@example.org', '', 'main', 'pro', 'linux-x64', 'aws', priority, 'noop',
    'bench', status, at, buildq_claim_key(priority, at), seq, seq, has_ended::integer,
    case when has_ended then 'bench' end, case when has_ended then at end, case when has_ended then at end,
    case when has_ended then 0 end, case when has_ended then 100 else 0 end,
    case when has_ended then 'Build complete' end
  from made cross join lateral (select status = 'success' as has_ended) as e
    cross join lateral (select case when has_ended then 3 else 1 end as seq) as s;
insert into build_attempts (build_id, attempt, node_id, generation, started_at, ended_at, outcome, progress)
  select id, 1, '00000000-0000-7000-8000-000000000001', 'bench', at, at, 'success', 100
  from made where status = 'success';
insert into build_events (build_id, seq, at, type, attempt, round)
  select id, seq, at, type, least(seq - 1, 1), 0
  from made cross join (values (1, 'queued'), (2, 'started'), (3, 'success')) as told(seq, type)
  where seq = 1 or status = 'success';
drop table made;
vacuum analyze build_queue, build_attempts, build_events;
checkpoint;
]]

--- Puts so many builds into the queue that triggers would take too long, and ended ones.
---@param database string
---@param pending integer
---@param ended integer
---@param days? integer how long ago they have ended, 1
function durable.fill_many(database, pending, ended, days)
  local text = MANY:format(pending, pending, days or 1, pending + ended)
  postgres.sql(database, text, 60 + (pending + ended) / 1000)
end

-- Looks for the end without disturbing: one session that sleeps.
local WAIT <const> = [[
do $body$ begin
  for i in 1 .. 10000 loop
    exit when not exists (select from build_queue where status in ('pending', 'building'));
    perform pg_sleep(0.02);
  end loop;
end $body$]]

--- Waits until no build is left, as quietly.
---@param server Server
function durable.wait(server) postgres.sql(server.database, WAIT, 300) end

--- Lets a paused queue go on; jobs a second from the first claim to the last row that says success.
---@param server Server
---@return number
function durable.drain(server)
  server:sql "update queue_control set paused = false"
  durable.wait(server)
  return tonumber(server:sql [[select count(*) / extract(epoch from max(completed_at) - min(started_at))
    from build_queue where status = 'success']])
end

--- The cluster's first process.
---@return integer
function durable.postmaster()
  local directory = postgres.connection_string("x"):match "host=(%S+)"
  return tonumber(process.read(directory .. "/data/postmaster.pid"):match "^%d+")
end

return durable
