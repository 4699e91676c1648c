-- One private PostgreSQL for a spec file, started on first use, with a database for each who asks.
local process = require "spec.support.process"

local postgres = {}

local BIN <const> = "/usr/lib/postgresql/15/bin/"
-- Specs want a fast cluster, and lose nothing that matters in a crash of the machine.
local FAST <const> = { "fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200",
  "shared_buffers=32MB", "autovacuum_naptime=5s" }
local settings = FAST
local cluster ---@type {directory: string, child: Child, databases: integer}|nil

-- PostgreSQL on directory/data, its socket in the directory.
local function program(directory)
  local argv = { BIN .. "postgres", "-D", directory .. "/data", "-k", directory, "-c", "listen_addresses=" }
  for _, setting in ipairs(settings) do
    argv[#argv + 1] = "-c"
    argv[#argv + 1] = setting
  end
  return argv
end

local function start()
  local directory = process.directory()
  local user = process.ordinary_user()
  if user then process.check { "chown", user.name, directory } end
  local env = { PATH = os.getenv "PATH", LC_ALL = "C.UTF-8", HOME = directory }
  process.check({ BIN .. "initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8",
    "--locale=C.UTF-8", "-D", directory .. "/data" }, { user = user, env = env, cwd = directory })
  local argv = program(directory)
  local child = process.spawn(argv, { user = user, env = env, cwd = directory, to = directory .. "/log" })
  cluster = { directory = directory, child = child, databases = 0, argv = argv, env = env, user = user }
  process.at_end(function()
    child = cluster.child
    cluster, settings = nil, FAST
    child:kill "sigint" -- fast shutdown
    child:wait(20)
  end)
  postgres.wait_ready()
end

--- Before the first database of a file: what its cluster is started with instead, such as { "shared_buffers=1GB" }.
---@param wanted string[]
function postgres.use(wanted)
  assert(not cluster, "the cluster runs already")
  settings = wanted
end

--- Waits until it takes connections.
function postgres.wait_ready()
  process.wait_for(function()
    if not cluster.child:alive() then
      process.give_up("PostgreSQL ended: " .. process.read(cluster.directory .. "/log"))
    end
    return process.run({ BIN .. "pg_isready", "-q", "-h", cluster.directory }).code == 0
  end, 30, "PostgreSQL")
end

--- Ends the whole cluster at once, as a crash would; `restart` brings it back with its data.
---@param signal? string default "sigquit"; "sigint" is an orderly, fast stop
function postgres.stop(signal)
  cluster.child:kill(signal or "sigquit")
  cluster.child:wait(20)
end

function postgres.restart()
  cluster.child = process.spawn(cluster.argv, { user = cluster.user, env = cluster.env, cwd = cluster.directory,
    to = cluster.directory .. "/log" })
  postgres.wait_ready()
end

-- The cluster's processes, the first one last: it must not see its children end while it is stopped.
local function signal_all(signal)
  local pids = process.run { "pgrep", "-P", tostring(cluster.child.pid) }.output
  for pid in pids:gmatch "%d+" do process.run { "kill", "-" .. signal, pid } end
  process.check { "kill", "-" .. signal, tostring(cluster.child.pid) }
end

--- Stops all processes of the cluster where they stand, as a hung machine would, until `thaw`.
function postgres.freeze() signal_all "STOP" end
function postgres.thaw() signal_all "CONT" end

--- The directory of the cluster: its socket and its log are there.
function postgres.directory() return cluster.directory end

--- A streaming standby of the cluster, running and synchronous: from then on no commit is known before the standby has
--- it (`use` must have left synchronous_commit on).
---@return {directory: string, promote: fun()} standby its socket is in `directory`
function postgres.standby()
  local directory = process.directory()
  if cluster.user then process.check { "chown", cluster.user.name, directory } end
  local as = { user = cluster.user, env = cluster.env, cwd = directory }
  process.check({ BIN .. "pg_basebackup", "-h", cluster.directory, "-U", "postgres", "-D", directory .. "/data", "-R",
    "-X", "stream", "-c", "fast", "--no-sync" }, as)
  process.check { "sed", "-i", "s/^primary_conninfo = '/&application_name=standby /",
    directory .. "/data/postgresql.auto.conf" }
  as.to = directory .. "/log"
  process.spawn(program(directory), as)
  postgres.sql("postgres", "alter system set synchronous_standby_names = 'standby'")
  postgres.sql("postgres", "select pg_reload_conf()")
  process.wait_for(function()
    return postgres.sql("postgres", "select sync_state from pg_stat_replication") == "sync"
  end, 30, function() return "the standby: " .. process.read(directory .. "/log") end)
  return { directory = directory, promote = function()
    as.to = nil
    process.check({ BIN .. "pg_ctl", "promote", "-D", directory .. "/data" }, as)
    process.check { "psql", "-XAtq", "-h", directory, "-U", "postgres", "-c",
      "alter system reset synchronous_standby_names", "-c", "select pg_reload_conf()" }
  end }
end

--- pgbouncer before the cluster; its socket is in `directory`.
---@param mode "session"|"transaction"
---@return {directory: string, child: Child, start: fun()}
function postgres.pooler(mode)
  local directory = process.directory()
  if cluster.user then process.check { "chown", cluster.user.name, directory } end
  process.write(directory .. "/users", '"postgres" ""\n')
  process.write(directory .. "/pgbouncer.ini", ([[
[databases]
* = host=%s port=5432
[pgbouncer]
unix_socket_dir = %s
listen_addr =
listen_port = 5432
auth_type = trust
auth_file = %s/users
pool_mode = %s
default_pool_size = 50
server_login_retry = 1
]]):format(cluster.directory, directory, directory, mode))
  local pooler = { directory = directory }
  function pooler.start()
    pooler.child = process.spawn({ "/usr/sbin/pgbouncer", directory .. "/pgbouncer.ini" },
      { user = cluster.user, env = cluster.env, cwd = directory, to = directory .. "/log" })
    process.wait_for(function()
      return process.run({ BIN .. "pg_isready", "-q", "-h", directory }).code == 0
    end, 20, function() return "pgbouncer: " .. process.read(directory .. "/log") end)
  end
  pooler.start()
  return pooler
end

--- What libpq is told to reach a database of the cluster.
---@param database string
---@return string
function postgres.connection_string(database)
  return ("host=%s port=5432 user=postgres dbname=%s"):format(cluster.directory, database)
end

--- Makes an empty database; returns its name.
---@return string
function postgres.create()
  if not cluster then start() end
  cluster.databases = cluster.databases + 1
  local name = "spec" .. cluster.databases
  postgres.sql("postgres", "create database " .. name .. " template template0")
  return name
end

--- Runs SQL through psql; rows as lines, columns joined by "|". Errors are raised with PostgreSQL's message.
---@param database string
---@param text string
---@param seconds? number how long it may take; 60
---@return string
function postgres.sql(database, text, seconds)
  local argv = { "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", postgres.connection_string(database), "-f", "-" }
  return process.check(argv, { stdin = text .. "\n", seconds = seconds })
end

return postgres
