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

--- A server that has not been started, with the cluster behind it.
---@param options? ServerOptions
---@return Server
function durable.server(options)
  options = options or {}
  if not options.database then pcall(postgres.use, SETTINGS) end -- the second server finds the cluster running
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
vacuum analyze build_queue;
checkpoint;
]]

--- Puts builds into the queue.
---@param database string
---@param count integer
---@param pipeline? string noop
function durable.fill(database, count, pipeline)
  postgres.sql(database, FILL:format(pipeline or "noop", count))
end

-- Looks for the end without disturbing: one session that sleeps.
local WAIT <const> = [[
do $body$ begin
  for i in 1 .. 10000 loop
    exit when not exists (select from build_queue where status in ('pending', 'building'));
    perform pg_sleep(0.02);
  end loop;
end $body$]]

--- Lets a paused queue go on; jobs a second from the first claim to the last row that says success.
---@param server Server
---@return number
function durable.drain(server)
  server:sql "update queue_control set paused = false"
  server:sql(WAIT)
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
