-- What may stand between a server and its database: a pooler, a standby that is promoted, a network that hangs.
local uv = require "luv"
local socket = require "socket"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"

local SCRIPTS <const> = builds.scripts { ["pipelines/noop.lua"] = "return { run = function() end }\n" }
local BIN <const> = "/usr/lib/postgresql/15/bin/"

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

-- A server that is made, but reaches its database in a way of its own.
local function make(conninfo, database, config)
  config = config or {}
  config.PollIntervalSeconds = 1
  local server = Server.new { scripts = SCRIPTS, database = database, config = { BuildQueue = config } }
  server.config.BuildQueue.ConnectionString = conninfo
  server:write_config()
  return server
end

describe("pgbouncer", function()
  local function start(mode, database)
    local directory, user = process.directory(), process.ordinary_user()
    local port = free_port()
    process.write(directory .. "/users", '"postgres" ""\n')
    process.write(directory .. "/ini", ([[
[databases]
%s = host=%s port=5432 user=postgres dbname=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
auth_file = %s/users
pool_mode = %s
default_pool_size = 20
]]):format(database, postgres.directory(), database, port, directory, mode))
    if user then process.check { "chown", "-R", user.name .. ":", directory } end
    process.spawn({ "/usr/sbin/pgbouncer", directory .. "/ini" },
      { user = user, cwd = directory, to = directory .. "/log" })
    local conninfo = ("host=127.0.0.1 port=%d user=postgres dbname=%s"):format(port, database)
    process.wait_for(function()
      return process.run({ "psql", "-XAtqc", "select 1", "-d", conninfo }).code == 0
    end, 20, function() return "pgbouncer: " .. process.read(directory .. "/log") end)
    return conninfo
  end

  it("in session mode is as good as none", function()
    local database = postgres.create()
    local server = make(start("session", database), database):launch()
    for _ = 1, 3 do builds.run(server, { pipeline = "noop" }) end
    assert.equal(0, server:stop())
  end)

  it("in transaction mode is refused at the start, with what to do", function()
    local database = postgres.create()
    local done = make(start("transaction", database), database):command { "serve" }
    assert.equal(1, done.code)
    assert.truthy(done.errors:find("session", 1, true), done.errors)
    assert.truthy(done.errors:lower():find("pool", 1, true), done.errors)
  end)
end)

describe("a network that hangs", function()
  -- Passes bytes on in both directions while it is open; then it takes them and is silent, as a lost route is.
  local function proxy(path)
    local self = { open = true }
    local listener = uv.new_tcp()
    assert(listener:bind("127.0.0.1", 0))
    listener:listen(128, function()
      local near, far = uv.new_tcp(), uv.new_pipe(false)
      listener:accept(near)
      local function pass(from, to)
        from:read_start(function(_, bytes)
          if not self.open then return end
          if bytes then to:write(bytes)
          else
            if not near:is_closing() then near:close() end
            if not far:is_closing() then far:close() end
          end
        end)
      end
      far:connect(path, function(reason)
        if reason then return near:close() end
        pass(near, far)
        pass(far, near)
      end)
    end)
    self.port = listener:getsockname().port
    return self
  end

  it("is noticed: /readyz says so, /healthz stays well, and it goes on when the network does", function()
    local database = postgres.create()
    local wire = proxy(postgres.directory() .. "/.s.PGSQL.5432")
    local server = make(("host=127.0.0.1 port=%d user=postgres dbname=%s sslmode=disable"):format(wire.port, database),
      database)
    server:spawn()
    process.wait_for(function() return server:listens() end, 30, "the server to listen")
    -- The proxy runs in this process: what asks must let it.
    local function ask(path)
      local done = process.run { "curl", "-s", "-m", "4", "-o", "/dev/null", "-w", "%{http_code}",
        "http://" .. server.address .. path }
      return tonumber(done.output)
    end
    process.wait_for(function() return ask "/readyz" == 200 end, 30)
    wire.open = false
    process.wait_for(function() return ask "/readyz" == 503 end, 5, "/readyz to notice")
    assert.equal(200, ask "/healthz")
    process.wait_for(function() return ask "/builds" == 503 end, 30, "requests to be refused")
    wire.open = true
    process.wait_for(function() return ask "/readyz" == 200 end, 60, "the server to come back")
    process.wait_for(function() return ask "/builds" == 200 end, 30)
    server:kill "sigterm"
    server.child:wait(30)
    assert.equal(0, server.child.code)
  end)
end)

describe("a failover", function()
  local user, env, clusters

  local function argv(name)
    return { BIN .. "postgres", "-D", clusters .. "/" .. name, "-k", clusters, "-p", name == "a" and "5501" or "5502",
      "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=100", "-c", "hot_standby=on" }
  end
  local function launch(name)
    local child = process.spawn(argv(name), { user = user, env = env, cwd = clusters, to = clusters .. "/log" })
    process.wait_for(function()
      local port = name == "a" and "5501" or "5502"
      return process.run({ BIN .. "pg_isready", "-q", "-h", clusters, "-p", port }).code == 0
    end, 30, function() return process.read(clusters .. "/log") end)
    return child
  end

  it("to a standby is followed, and no build is lost or done twice", function()
    clusters, user = process.directory(), process.ordinary_user()
    env = { PATH = os.getenv "PATH", LC_ALL = "C.UTF-8", HOME = clusters }
    if user then process.check { "chown", user.name, clusters } end
    local options = { user = user, env = env, cwd = clusters }
    process.check({ BIN .. "initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8",
      "-D", clusters .. "/a" }, options)
    local first = launch "a"
    process.check({ BIN .. "pg_basebackup", "-h", clusters, "-p", "5501", "-U", "postgres", "-D", clusters .. "/b",
      "-R", "-X", "stream", "-c", "fast" }, options)
    local second = launch "b"
    -- What is committed is on both: then nothing is lost when the first one goes.
    local function sql(port, text)
      return process.check({ "psql", "-XAtq", "-h", clusters, "-p", port, "-U", "postgres", "-c", text })
    end
    sql("5501", "alter system set synchronous_standby_names = '*'")
    sql("5501", "select pg_reload_conf()")
    local server = make(("host=%s,%s port=5501,5502 user=postgres dbname=postgres target_session_attrs=read-write")
      :format(clusters, clusters), false):launch()
    builds.run(server, { pipeline = "noop" })
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    first:kill "sigquit"
    first:wait(20)
    server:wait_for(function() return server:get("/readyz").status == 503 end, 5)
    sql("5502", "select pg_promote()")
    sql("5502", "alter system reset synchronous_standby_names")
    sql("5502", "select pg_reload_conf()")
    server:wait_for(function() return server:get("/readyz").status == 200 end, 30)
    builds.open_gate(server, id)
    server:wait_for(function() return server:get("/builds/" .. id).json.status == "success" end, 30)
    assert.equal(1, server:get("/builds/" .. id).json.attempt)
    builds.run(server, { pipeline = "noop" })
    assert.equal(0, server:stop())
    second:kill "sigint"
    second:wait(20)
  end)
end)
