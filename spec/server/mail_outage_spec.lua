-- The database goes away while mails are being sent, in each way that it can: every mail arrives, and once. What a mail
-- server has taken is recorded when the database is back; a claim whose answer was lost is given back, and never sent.
local uv = require "luv"
local Server = require "spec.support.server"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"
local smtp = require "spec.support.smtp"

local MAILS <const> = 150 -- owed for each fault
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

  local owed = 0

  -- Owes mails and waits until some of them have come, but by far not all.
  local function owe()
    local before = sink:count()
    server:sql(([[insert into deliveries (id, event, channel, recipient, template)
      select gen_random_uuid(), 'queued', 'email', 'c' || n || '@example.org', 'queued'
      from generate_series(1, %d) n; notify buildq_wake]]):format(MAILS))
    owed = owed + MAILS
    server:wait_for(function() return sink:count() >= before + 10 end, 60, "the first mails")
  end

  local function await_all()
    server:wait_for(function()
      return server:sql "select count(*) from deliveries where state = 'sent'" == tostring(owed)
    end, 60, function() return server:sql "select state, count(*), max(last_reply) from deliveries group by state" end)
  end

  lazy_setup(function()
    database = postgres.create()
    connect()
    sink = smtp.sink { keep = "ids" }
    server = Server.start { database = database, config = { Email = sink:config(), BuildQueue = {
      ConnectionString = ("Host=127.0.0.1;Port=%s;Username=postgres;Database=%s"):format(port, database),
      LeaseSeconds = LEASE_S, PollIntervalSeconds = 1, MaxConcurrentDeliveries = 4 } } }
  end)

  it("cut off again and again", function()
    for _ = 1, 3 do
      owe()
      cut()
      server:wait_for(function() return server:get("/readyz").status == 503 end, 10)
      connect()
      await_all()
    end
  end)

  it("behind a network that hangs for longer than the lease", function()
    owe()
    local until_ns = uv.hrtime() + (LEASE_S + 1) * 1e9
    proxy:kill "sigstop"
    finally(function() proxy:kill "sigcont" end)
    server:wait_for(function() return uv.hrtime() > until_ns and server:get("/readyz").status == 503 end, 20)
    proxy:kill "sigcont"
    await_all()
  end)

  it("killed", function()
    owe()
    postgres.stop()
    server:wait_for(function() return server:get("/readyz").status == 503 end, 10)
    postgres.restart()
    await_all()
  end)

  it("missed, loses no mail and doubles none", function()
    local times, different = {}, 0
    for _, mail in ipairs(sink:mails()) do
      if not times[mail.id] then different = different + 1 end
      times[mail.id] = (times[mail.id] or 0) + 1
    end
    for id, count in pairs(times) do assert.equal(1, count, id) end
    assert.equal(owed, different)
    assert.equal("0", server:sql "select count(*) from deliveries where tries <> 1")
    assert.equal(0, server:stop())
  end)
end)
