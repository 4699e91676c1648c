-- Whoever keeps PostgreSQL from cleaning up is named: in the log, once, and in /metrics.
local Server = require "spec.support.server"
local postgres = require "spec.support.postgres"
local sessions = require "spec.support.sessions"

local GRUMBLE <const> = "PostgreSQL can't clean up"

-- The lines of the log that name somebody, and the series of /metrics.
local function told(server)
  local lines = {}
  for line in server:log():gmatch "[^\n]+" do
    if line:find(GRUMBLE, 1, true) then lines[#lines + 1] = line end
  end
  return lines
end

local function holders(server)
  local list = {}
  for line in server:get("/metrics").body:gmatch "[^\n]+" do
    local labels, age = line:match "^buildq_horizon_holder_seconds{(.*)} ([%d.]+)$"
    if labels then list[#list + 1] = { labels = labels, age = tonumber(age) } end
  end
  return list
end

local function age(server) return tonumber(server:get("/metrics").body:match "\nbuildq_horizon_seconds ([%d.]+)") end

-- The one of them with these labels among others, which all must have been told once.
local function find(server, labels, log)
  local series
  for _, each in ipairs(holders(server)) do
    if each.labels:find(labels, 1, true) then series = each end
  end
  assert.truthy(series, labels)
  assert.truthy(series.age >= 1)
  local count = 0
  for _, line in ipairs(told(server)) do
    if line:find(log, 1, true) then count = count + 1 end
  end
  assert.equal(1, count, log)
end

describe("what keeps PostgreSQL from cleaning up", function()
  local server, patient, modest -- a server; one that warns late; one whose role may see little
  local snapshot, preparing, writing, other = nil, nil, nil, nil -- sessions

  setup(function()
    postgres.use { "fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_prepared_transactions=5" }
    local options = { HorizonWarningSeconds = 1 }
    server = Server.start { config = { BuildQueue = options, Email = { SmtpPassword = "a_known_secret" } } }
    patient = Server.start { database = server.database, config = { BuildQueue = { HorizonWarningSeconds = 3600 } } }
    local database = postgres.create()
    postgres.sql("postgres", "create role app login; alter database " .. database .. " owner to app")
    postgres.sql(database, "alter schema public owner to app")
    modest = Server.start { database = database, config = { BuildQueue = { HorizonWarningSeconds = 1,
      ConnectionString = postgres.connection_string(database):gsub("user=postgres", "user=app") } } }

    snapshot, preparing, writing = sessions.open(server.database), sessions.open(server.database),
      sessions.open(server.database)
    snapshot:ask "begin isolation level repeatable read"
    snapshot:ask "select 'hunter2', /* hunter2 */ 4711 as a_known_secret from build_queue"
    preparing:ask "begin"
    preparing:ask "create table forgotten (x int)"
    preparing:ask "prepare transaction 'left behind'"
    writing:ask "begin"
    writing:ask "create table half_done (x int)"
    writing:ask "select now()"
    other = sessions.open(database)
    other:ask "begin isolation level repeatable read"
    other:ask "select 'hunter2'"
    server:wait_for(function() return #holders(server) == 3 end, 30, "the names in /metrics")
    modest:wait_for(function() return #holders(modest) == 1 end, 30, "the name in /metrics")
  end)
  teardown(function()
    for _, each in ipairs { server, patient, modest } do each:stop() end
  end)

  it("a session with an old snapshot: its process, age and query, without what is in it", function()
    find(server, ('holder="session",pid="%d",query="select ?, ? as *** from build_queue;"'):format(snapshot.pid),
      ('pid=%d '):format(snapshot.pid))
    local everything = table.concat(told(server), "\n") .. server:get("/metrics").body
    for _, secret in ipairs { "hunter2", "4711", "a_known_secret" } do
      assert.is_nil(everything:find(secret), secret)
    end
    assert.truthy(everything:find('role=postgres application=psql query="select ?, ? as ***', 1, true))
  end)

  it("a prepared transaction that nobody ends", function()
    local name = 'holder="prepared transaction left behind"'
    find(server, name .. ',pid="",query=""', name)
  end)

  it("a long transaction that writes, however short its statements are", function()
    find(server, ('pid="%d",query="select now();"'):format(writing.pid), ("pid=%d "):format(writing.pid))
  end)

  it("a session of another role, whose query can't be read", function()
    find(modest, ('pid="%d",query="<insufficient privilege>"'):format(other.pid), ("pid=%d "):format(other.pid))
  end)

  it("nobody before HorizonWarningSeconds, but the age is shown", function()
    server:wait_for(function() return age(patient) > 1 end, 30)
    assert.same({}, holders(patient))
    assert.same({}, told(patient))
  end)

  it("is forgotten when it ends, and told once however long it stays", function()
    for _, session in ipairs { snapshot, writing } do session:ask "commit" end
    preparing:ask "rollback prepared 'left behind'"
    -- What a server does itself may be there for a moment.
    server:wait_for(function() return #holders(server) == 0 and age(server) < 1 end, 30, "the names to go")
    assert.equal(3, #told(server))
  end)

  it("one whose age is not told, again when it holds something else for as long", function()
    local pid = ("pid=%d "):format(other.pid)
    -- The oldest that the next snapshot sees is another one: nothing that is older runs any more.
    postgres.sql(modest.database, "select pg_current_xact_id()")
    other:ask "commit; begin isolation level repeatable read; select 1"
    modest:wait_for(function() return #told(modest) == 2 end, 30, "the second line")
    for _, line in ipairs(told(modest)) do assert.truthy(line:find(pid, 1, true), line) end
  end)
end)
