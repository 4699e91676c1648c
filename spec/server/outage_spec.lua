-- Ways in which PostgreSQL is away that database_spec.lua has not: failed over to a standby, no connection left, a
-- network that hangs or is cut, and a pgbouncer between.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"

postgres.use { "fsync=off", "max_connections=200", "shared_buffers=32MB" } -- synchronous_commit on: for the standby

local function starts(server, id)
  return select(2, server:log():gsub("attempt started build=" .. id:gsub("%-", "%%-"), ""))
end

-- A server that reaches its database by another way than the cluster's own socket.
local function start(connection_string, database, options)
  options = options or {}
  options.scripts, options.database = builds.scripts(), database
  options.config = { BuildQueue = { ConnectionString = connection_string, MaxConcurrentBuilds = 4,
    LeaseSeconds = 3, PollIntervalSeconds = 1 } }
  return Server.start(options)
end

local function running(server)
  local id = builds.submit(server, { pipeline = "gate" })
  builds.await(server, id, "building")
  return id
end

-- What holds while it is away, however it is away.
local function expect_away(server, id)
  server:wait_for(function() return server:get("/readyz").status == 503 end, 4, "/readyz to say so")
  assert.equal(200, server:get("/healthz").status)
  for _, ask in ipairs { { "GET", "/builds/" .. id }, { "POST", "/builds", builds.request() } } do
    local answer = server:request(ask[1], ask[2], ask[3])
    assert.equal(503, answer.status, answer.body)
    assert.truthy(tonumber(answer.headers["retry-after"]))
  end
  assert.equal(200, server:get("/healthz").status)
end

-- And when it is back: what ended meanwhile is written, nothing has run twice, new builds are taken.
local function expect_back(server, id)
  server:wait_for(function() return server:get("/readyz").status == 200 end, 40, "/readyz to be well")
  server:wait_for(function()
    local build = server:get("/builds/" .. id).json
    return build and build.status == "success"
  end, 40, "what ended to be written")
  assert.equal(1, server:get("/builds/" .. id).json.attempt)
  assert.equal(1, starts(server, id))
  server:wait_for(function() return server:post("/builds", builds.request()).status == 202 end, 10)
  assert.equal(1, select(2, server:log():gsub(" listening ", "")))
  assert.equal(0, server:stop())
end

describe("PostgreSQL", function()
  it("may have no connection left", function()
    local database = postgres.create()
    postgres.sql("postgres", ("create role app login; alter database %s owner to app"):format(database))
    local server = start(postgres.connection_string(database):gsub("user=postgres", "user=app"), database)
    local id = running(server)
    postgres.sql("postgres", "alter role app connection limit 0") -- the error of a server that is full: 53300
    postgres.sql("postgres", "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")
    expect_away(server, id)
    builds.open_gate(server, id)
    server:wait_for(function() return server:log():find("a write waits for the database", 1, true) end, 30)
    assert.truthy(server:log():find("too many connections", 1, true))
    postgres.sql("postgres", "alter role app connection limit -1")
    expect_back(server, id)
  end)

  it("may be behind a network that hangs without closing, and goes on", function()
    local database = postgres.create()
    local socket = postgres.directory() .. "/.s.PGSQL.5432"
    local proxy = process.spawn { "lua5.4", "spec/support/proxy.lua", socket, "0" }
    process.wait_for(function() return proxy.output:find "\n" end, 10, "the proxy")
    local port = proxy.output:match "%d+"
    local text = ("Host=127.0.0.1;Port=%s;Username=postgres;Database=%s"):format(port, database)
    local server = start(text, database)
    local id, second = running(server), running(server)
    proxy:kill "sigstop"
    finally(function() proxy:kill "sigcont" end)
    expect_away(server, id)
    builds.open_gate(server, id)
    server:wait_for(function() return server:log():find("a write waits for the database", 1, true) end, 60)
    proxy:kill "sigcont"
    server:wait_for(function() return server:get("/readyz").status == 200 end, 40, "/readyz to be well")
    server:wait_for(function() return server:get("/builds/" .. id).json.status == "success" end, 40)
    -- It hangs again, and then it is cut: what was under way is lost.
    proxy:kill "sigstop"
    expect_away(server, second)
    builds.open_gate(server, second)
    proxy:kill "sigkill"
    proxy:wait(10)
    proxy = process.spawn { "lua5.4", "spec/support/proxy.lua", socket, port }
    expect_back(server, second)
    assert.equal(1, starts(server, id))
  end)

  it("may be behind pgbouncer in session mode, which may be started anew", function()
    local database = postgres.create()
    local pooler = postgres.pooler "session"
    local server = start(postgres.connection_string(database):gsub("host=%S+", "host=" .. pooler.directory), database)
    local id = running(server)
    postgres.sql("postgres", ("select pg_terminate_backend(pid) from pg_stat_activity where datname = '%s'")
      :format(database))
    server:wait_for(function() return server:get("/builds/" .. id).status == 200 end, 20)
    pooler.child:kill "sigterm"
    pooler.child:wait(20)
    expect_away(server, id)
    builds.open_gate(server, id)
    pooler.start()
    expect_back(server, id)
    pooler.child:kill "sigterm"
  end)

  it("behind pgbouncer in transaction mode is refused, with what to do", function()
    local database = postgres.create()
    local pooler = postgres.pooler "transaction"
    local server = Server.new { database = database, config = { BuildQueue = {
      ConnectionString = postgres.connection_string(database):gsub("host=%S+", "host=" .. pooler.directory) } } }
    server:spawn()
    assert.equal(1, server.child:wait(30))
    assert.truthy(server:log():find("set it to pool_mode=session, or name PostgreSQL itself", 1, true), server:log())
    pooler.child:kill "sigterm"
  end)

  -- The last one: the cluster of this file is another one afterwards.
  it("may fail over to a standby, which the connection string names too", function()
    local database = postgres.create()
    local standby = postgres.standby()
    local text = ("host=%s,%s user=postgres dbname=%s target_session_attrs=read-write"):format(
      postgres.directory(), standby.directory, database)
    local server = start(text, database)
    local id = running(server)
    postgres.stop "sigquit"
    expect_away(server, id)
    builds.open_gate(server, id)
    server:wait_for(function() return server:log():find("a write waits for the database", 1, true) end, 30)
    standby.promote()
    expect_back(server, id)
    postgres.restart() -- for the end of this file
  end)
end)
