-- The database goes away while mails are being sent, in each way that it can: every mail arrives, and once. What a mail
-- server has taken is recorded when the database is back; a claim whose answer was lost is given back, and never sent.
local uv = require "luv"
local Server = require "spec.support.server"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"
local smtp = require "spec.support.smtp"

local MAILS <const> = 500
local LEASE_S <const> = 3

-- A crash loses nothing that was committed.
postgres.use { "fsync=off", "max_connections=200", "shared_buffers=32MB" }

describe("while mails are being sent, a database that is", function()
  local database, proxy, port, server, sink

  local function connect()
    proxy = process.spawn { "lua5.4", "spec/support/proxy.lua", postgres.directory() .. "/.s.PGSQL.5432", port or "0" }
    port = process.wait_for(function() return proxy.output:match "%d+" end, 10, "the proxy")
  end

  local function cut()
    proxy:kill "sigkill"
    proxy:wait(10)
  end

  -- Until `more` mails beyond those of now have come.
  local function await_mails(more)
    local before = sink:count()
    server:wait_for(function() return sink:count() >= before + more end, 60, "more mails")
  end

  lazy_setup(function()
    database = postgres.create()
    connect()
    sink = smtp.sink { keep = "ids" }
    server = Server.start { database = database, config = { Email = sink:config(), BuildQueue = {
      ConnectionString = ("Host=127.0.0.1;Port=%s;Username=postgres;Database=%s"):format(port, database),
      LeaseSeconds = LEASE_S, PollIntervalSeconds = 1, MaxConcurrentDeliveries = 4 } } }
    server:sql(([[insert into deliveries (id, event, channel, recipient, template)
      select gen_random_uuid(), 'queued', 'email', 'c' || n || '@example.org', 'queued'
      from generate_series(1, %d) n; notify buildq_wake]]):format(MAILS))
    await_mails(20)
  end)

  it("cut off again and again", function()
    for _ = 1, 3 do
      cut()
      server:wait_for(function() return server:get("/readyz").status == 503 end, 10)
      connect()
      await_mails(20)
    end
  end)

  it("behind a network that hangs for longer than the lease", function()
    local until_ns = uv.hrtime() + (LEASE_S + 1) * 1e9
    proxy:kill "sigstop"
    finally(function() proxy:kill "sigcont" end)
    server:wait_for(function() return uv.hrtime() > until_ns and server:get("/readyz").status == 503 end, 20)
    proxy:kill "sigcont"
    await_mails(20)
  end)

  it("killed", function()
    postgres.stop()
    server:wait_for(function() return server:get("/readyz").status == 503 end, 10)
    postgres.restart()
    await_mails(20)
  end)

  it("missed, loses no mail and doubles none", function()
    server:wait_for(function()
      return server:sql "select count(*) from deliveries where state = 'sent'" == tostring(MAILS)
    end, 120, function() return server:sql "select state, count(*), max(last_reply) from deliveries group by state" end)
    local times, different = {}, 0
    for _, mail in ipairs(sink:mails()) do
      if not times[mail.id] then different = different + 1 end
      times[mail.id] = (times[mail.id] or 0) + 1
    end
    for id, count in pairs(times) do assert.equal(1, count, id) end
    assert.equal(MAILS, different)
    assert.equal("0", server:sql "select count(*) from deliveries where tries <> 1")
    assert.equal(0, server:stop())
  end)
end)
