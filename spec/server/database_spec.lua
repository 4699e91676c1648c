-- The database goes away and comes back; whose state directory is whose.
local uv = require "luv"
local json = require "dkjson"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"

local PIPELINES <const> = builds.scripts {
  ["pipelines/noop.lua"] = "return { run = function() end }\n",
  ["pipelines/command.lua"] = [[
    return { run = function(build)
      build:exec { argv = { "sh", "-c", "echo started; while [ ! -e go ]; do sleep 0.05; done; echo ended" } }
    end }
  ]],
  ["pipelines/failing.lua"] = [[
    local buildq = require "buildq"
    return { run = function(build)
      while not buildq.fs.exists "go" do buildq.sleep(0.02) end
      build:fail "no luck"
    end }
  ]],
}

-- How often an attempt of this build was really started by the server.
local function starts(server, id)
  return select(2, server:log():gsub("attempt started build=" .. id:gsub("%-", "%%-"), ""))
end

-- Ends all connections of the server to its database, and only those. Returns how many.
local function terminate(server)
  return tonumber(server:sql [[select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity
    where application_name = 'buildq' and datname = current_database()) t]])
end

local function ready_check(server, name)
  local ready = server:get "/readyz"
  for _, check in ipairs(ready.json.checks) do
    if check.name == name then return check, ready end
  end
end

describe("a database that goes away", function()
  it("is waited for: 503 meanwhile, and what ended is written when it is back", function()
    local server = Server.start { config = { BuildQueue = { MaxConcurrentBuilds = 4 } }, scripts = PIPELINES }
    local ids = {}
    for i, pipeline in ipairs { "gate", "command", "failing" } do
      ids[i] = builds.submit(server, { pipeline = pipeline })
      builds.await(server, ids[i], "building")
    end
    local waiting = builds.submit(server, { pipeline = "gate" })
    builds.await(server, waiting, "building")
    postgres.stop "sigint" -- in order: the cluster of the specs does not sync, a crash would lose commits
    local check, ready
    server:wait_for(function()
      check, ready = ready_check(server, "database")
      return ready.status == 503
    end, 2, "/readyz to name the database")
    assert.equal("failing", ready.json.status)
    assert.equal("failing", check.status)
    assert.truthy(check.message:find("PostgreSQL", 1, true))
    assert.equal(200, server:get("/healthz").status)
    local id = ids[1]
    -- At once, since each may wait for the database a while.
    local asked = {}
    for i, ask in ipairs {
      { "GET", "/builds/" .. id }, { "GET", "/builds" }, { "GET", "/builds/" .. id .. "/artifacts" },
      { "POST", "/builds", builds.request() }, { "POST", "/builds/" .. id .. "/cancel", { reason = "spec" } },
      { "PATCH", "/builds/" .. id, { priority = 2 } }, { "POST", "/queue/pause", { reason = "spec" } },
    } do
      local body = ask[3] and json.encode(ask[3]) or ""
      asked[i] = { ask[1] .. " " .. ask[2], server:connect(20) }
      assert(asked[i][2]:send(("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
        .. "Connection: close\r\nContent-Length: %d\r\n\r\n%s"):format(ask[1], ask[2], server.address, #body, body)))
    end
    for _, each in ipairs(asked) do
      local answer = each[2]:receive "*a"
      each[2]:close()
      assert.same({ 503 }, Server.statuses(answer), each[1])
      assert.truthy(answer:lower():find "\nretry%-after: %d+\r", each[1])
      assert.truthy(answer:find("application/problem+json", 1, true), each[1])
    end
    for _, each in ipairs(ids) do builds.open_gate(server, each) end
    server:wait_for(function() return server:log():find("a write waits for the database", 1, true) end, 30)
    postgres.restart()
    local function status(of)
      local build = server:get("/builds/" .. of).json
      return build and build.status
    end
    server:wait_for(function() return status(ids[1]) == "success" and status(ids[2]) == "success" end, 40)
    server:wait_for(function() return status(ids[3]) == "pending" end, 30)
    server:wait_for(function() return server:get("/readyz").status == 200 end, 30)
    -- The one that did not notice goes on.
    assert.equal("building", status(waiting))
    builds.open_gate(server, waiting)
    builds.await(server, waiting, "success")
    for _, each in ipairs { ids[1], ids[2], ids[3], waiting } do
      assert.equal(1, server:get("/builds/" .. each).json.attempt)
      assert.equal(1, starts(server, each))
    end
    assert.equal("1|no luck", server:sql(("select retry_count, error_message from build_queue where id = '%s'")
      :format(ids[3])))
    assert.equal("0", server:sql "select count(*) from build_queue where cancel_requested_at is not null")
    server:stop()
  end)

  it("may crash: the server stays up, and takes new builds afterwards", function()
    local server = Server.start { scripts = PIPELINES, config = { BuildQueue = { LeaseSeconds = 3 } } }
    server:wait_for(function() return server:log():find("joined the cluster", 1, true) end, 30)
    server:sql "checkpoint" -- the cluster of the specs does not sync
    postgres.stop "sigquit"
    server:wait_for(function() return server:get("/readyz").status == 503 end, 2)
    postgres.restart()
    server:wait_for(function() return server:get("/readyz").status == 200 end, 30)
    builds.run(server, { pipeline = "noop" })
    assert.equal(1, select(2, server:log():gsub("listening", "")))
    server:stop()
  end)

  it("may freeze: /readyz says so within seconds, requests get 503 and leave nothing, /healthz stays ok", function()
    local server = Server.start { scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "noop" })
    builds.await(server, id, "success")
    server:wait_for(function() return server:log():find("joined the cluster", 1, true) end, 30)
    finally(postgres.thaw)
    postgres.freeze()
    local check
    server:wait_for(function()
      local ready
      check, ready = ready_check(server, "database")
      return ready.status == 503
    end, 4, "/readyz to name the database")
    assert.truthy(check.message:find("PostgreSQL has not answered for %d s"), check.message)
    assert.equal(200, server:get("/healthz").status)
    server:wait_for(function()
      return tonumber((ready_check(server, "database").message:match "has not answered for (%d+) s")) >= 3
    end, 3, "requests to be refused")
    local body = json.encode(builds.request { pipeline = "noop", customerName = "frozen out" })
    for _, line in ipairs { "GET /builds/" .. id, "POST /builds" } do
      local socket = server:connect(5)
      assert(socket:send(("%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nConnection: close\r\n"
        .. "Content-Length: %d\r\n\r\n%s"):format(line, server.address, #body, body)))
      local answer = assert(socket:receive "*a", line)
      socket:close()
      assert.same({ 503 }, Server.statuses(answer), line)
      assert.truthy(answer:lower():find "\nretry%-after: %d+\r", line)
    end
    assert.equal(200, server:get("/metrics").status)
    postgres.thaw()
    server:wait_for(function() return server:get("/readyz").status == 200 end, 4)
    assert.falsy(server:log():find("database is away", 1, true)) -- its connections have stayed
    builds.run(server, { pipeline = "noop" })
    assert.equal("0", server:sql "select count(*) from build_queue where customer_name = 'frozen out'")
    server:stop()
  end)

  it("may drop every connection while a build runs", function()
    local server = Server.start { config = { BuildQueue = { PollIntervalSeconds = 3600 } }, scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    for _ = 1, 3 do
      assert.truthy(terminate(server) > 0)
      server:wait_for(function() return server:get("/builds/" .. id).status == 200 end, 20)
    end
    assert.truthy(terminate(server) > 0)
    builds.open_gate(server, id)
    -- Not through builds.await: a request on a connection that has just gone may get 503.
    server:wait_for(function() return server:get("/builds/" .. id).json.status == "success" end, 30)
    assert.equal(1, server:get("/builds/" .. id).json.attempt)
    assert.equal(1, starts(server, id))
    -- It listens again: what plain INSERTs announce is claimed, though the next poll is an hour away.
    for _ = 1, 2 do
      local late = server:sql(([[insert into build_queue (customer_id, customer_name, customer_email,
        configuration_name, manifest_path, tier, architecture, cloud_provider, pipeline, manifest_hash)
        select customer_id, customer_name, customer_email, configuration_name, manifest_path, tier, architecture,
        cloud_provider, 'noop', manifest_hash from build_queue where id = '%s' returning id]]):format(id)):match "%S+"
      server:wait_for(function() return server:get("/builds/" .. late).json.status == "success" end, 20)
    end
    server:stop()
  end)

  it("may drop every connection at any time", function()
    local server = Server.start { config = { BuildQueue = { MaxConcurrentBuilds = 4 } }, scripts = PIPELINES }
    local ids = {}
    for i = 1, 100 do
      local answer = server:post("/builds", builds.request { pipeline = "noop" })
      if answer.status == 202 then ids[#ids + 1] = answer.json.jobId
      else assert.equal(503, answer.status, answer.body) end
      if i % 4 == 0 then terminate(server) end
    end
    assert.truthy(#ids > 0)
    server:wait_for(function()
      return server:sql "select count(*) from build_queue where status in ('pending', 'building')" == "0"
    end, 60)
    for _, id in ipairs(ids) do
      assert.equal("success", server:sql(("select status from build_queue where id = '%s'"):format(id)))
      assert.equal(1, starts(server, id))
    end
    assert.equal("0", server:sql "select max(retry_count) from build_queue")
    server:stop()
  end)

  it("does not hold up a stop for ever, though what ended can't be recorded", function()
    local server = Server.start { scripts = PIPELINES, config = { BuildQueue = { EnableGracefulShutdown = false } } }
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    postgres.stop "sigint"
    server:kill "sigterm"
    server.child:wait(20)
    assert.truthy(server:log():find("the database does not take what became of the builds", 1, true))
    postgres.restart()
    server:launch()
    builds.open_gate(server, id, 2)
    assert.equal(2, builds.await(server, id, "success").attempt)
    server:stop()
  end)

  it("does not hold up a second signal", function()
    local server = Server.start { scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    postgres.stop "sigint"
    server:kill "sigterm"
    server:wait_for(function() return server:log():find("stopping: no new builds", 1, true) end, 30)
    assert.truthy(server.child:alive())
    server:kill "sigterm"
    server.child:wait(10)
    postgres.restart()
    server:launch()
    builds.open_gate(server, id, 2)
    assert.equal(2, builds.await(server, id, "success").attempt)
    server:stop()
  end)
end)

describe("the private cluster", function()
  it("keeps builds over a restart, and over a crash", function()
    local server = Server.start { database = false, scripts = PIPELINES,
      config = { BuildQueue = { LeaseSeconds = 600 } } }
    local id = builds.submit(server, { pipeline = "noop" })
    builds.await(server, id, "success")
    assert.equal(0, server:stop())
    local pid_file = server.directory .. "/state/postgres/postmaster.pid"
    server:launch()
    assert.equal("success", server:get("/builds/" .. id).json.status)
    local running = builds.submit(server, { pipeline = "gate" })
    builds.await(server, running, "building")
    server:kill "sigkill"
    server.child:wait(30)
    server:launch()
    assert.equal("success", server:get("/builds/" .. id).json.status)
    server:wait_for(function() return server:get("/builds/" .. running).json.attempt == 2 end, 30)
    builds.open_gate(server, running, 2)
    builds.await(server, running, "success")
    assert.equal(0, server:stop())
    assert.falsy(uv.fs_stat(pid_file)) -- stopped with the server
  end)

  it("is started again when it ends, and builds go on meanwhile", function()
    local server = Server.start { database = false, scripts = PIPELINES,
      config = { BuildQueue = { MaxConcurrentBuilds = 2, LeaseSeconds = 600 } } }
    local path = process.check { "find", server.directory .. "/state", "-name", "postmaster.pid" }
    local function pid() return process.read(path):match "^%d+" end
    local running = builds.submit(server, { pipeline = "gate" })
    builds.await(server, running, "building")
    local workspace = builds.workspace(server, running)
    for _, signal in ipairs { "sigkill", "sigint" } do
      local before = pid()
      uv.kill(tonumber(before), signal)
      server:wait_for(function() return server:get("/readyz").status == 503 end, 10)
      server:wait_for(function() return (pid() or before) ~= before end, 20, "another PostgreSQL")
      server:wait_for(function() return server:get("/readyz").status == 200 end, 20)
    end
    builds.run(server, { pipeline = "noop" })
    assert.truthy(uv.fs_stat(workspace))
    builds.open_gate(server, running)
    assert.equal(1, builds.await(server, running, "success").attempt)
    assert.equal(1, starts(server, running))
    local log = server:log()
    assert.equal(2, select(2, log:gsub("the private PostgreSQL has ended and is started again", "")))
    assert.truthy(log:find("pauseSeconds=0.1", 1, true))
    assert.truthy(log:find("pauseSeconds=1.0", 1, true)) -- the second one in a minute waits longer
    assert.equal(0, server:stop())
    assert.falsy(uv.fs_stat(path))
  end)
end)

describe("a state directory", function()
  it("belongs to one server", function()
    for _, options in ipairs { { scripts = PIPELINES }, { scripts = PIPELINES, database = false } } do
      local server = Server.start(options)
      local other = server:command { "serve" }
      assert.equal(1, other.code)
      assert.truthy(other.errors:find("another server uses the state directory", 1, true), other.errors)
      builds.run(server, { pipeline = "noop" }) -- the first one never noticed
      server:stop()
    end
  end)
end)
