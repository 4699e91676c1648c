-- A durable cluster for the groups that measure the queue, and builds that wait in it.
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
  return Server.new(options)
end

-- As POST /builds leaves them: their manifest is kept, their pipeline known.
local FILL <const> = [[
insert into build_manifests (hash, content) values ('bench', '{"version": "1.0", "name": "bench"}')
  on conflict do nothing;
insert into build_queue (id, customer_id, customer_name, customer_email, manifest_path, configuration_name, tier,
    architecture, cloud_provider, priority, pipeline, manifest_hash)
  select gen_random_uuid(), 'c' || i %% 100, 'Customer', 'c@example.org', '', 'main', 'pro', 'linux-x64', 'aws', i %% 4,
    'noop', 'bench'
  from generate_series(1, %d) as i;
vacuum analyze build_queue;
checkpoint;
]]

--- Puts builds of the pipeline noop into the queue.
---@param database string
---@param count integer
function durable.fill(database, count) postgres.sql(database, FILL:format(count)) end

return durable
