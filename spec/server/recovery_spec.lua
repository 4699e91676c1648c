-- Ends that nobody asked for: signals, crashes, a database that goes away.
local uv = require "luv"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local postgres = require "spec.support.postgres"

local PIPELINES <const> = builds.scripts {
  ["pipelines/noop.lua"] = "return { run = function() end }\n",
  -- A command that tells when it runs, and a file that lets it end.
  ["pipelines/command.lua"] = [[
    return { run = function(build)
      build:exec { argv = { "sh", "-c", "echo started; while [ ! -e go ]; do sleep 0.05; done", build.metadata.mark } }
    end }
  ]],
}

local function processes(mark)
  return tonumber(io.popen("exec pgrep -fc 'while .*" .. mark .. "$'"):read "a") or 0
end

local function new_mark() return ("mark%d"):format(math.random(100000000, 999999999)) end

local function start_command(server)
  local mark = new_mark()
  local id = builds.submit(server, { pipeline = "command", metadata = { mark = mark } })
  builds.await(server, id, "building")
  server:wait_for(function() return processes(mark) > 0 end, 10, "the command to run")
  return id, mark
end

local function attempts(server, id)
  return server:sql(("select string_agg(coalesce(outcome, 'running'), ' ' order by attempt) from build_attempts "
    .. "where build_id = '%s'"):format(id))
end

describe("a server that is stopped", function()
  it("lets running builds end within the grace time", function()
    local server = Server.start { scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    server:kill "sigterm"
    builds.open_gate(server, id)
    assert.equal(0, server.child:wait(20))
    assert.equal("success", server:sql(("select status from build_queue where id = '%s'"):format(id)))
    assert.equal("stopped", server:sql "select state from nodes")
  end)

  it("gives back what does not end in time, uncharged, and the next start finishes it", function()
    local server = Server.start {
      config = { BuildQueue = { GracefulShutdownTimeoutSeconds = 1, StopGraceSeconds = 1 } }, scripts = PIPELINES }
    local id, mark = start_command(server)
    local generation = server:sql(("select generation from build_queue where id = '%s'"):format(id))
    assert.equal(0, server:stop())
    assert.equal(0, processes(mark))
    assert.equal("pending|0", server:sql(("select status, retry_count from build_queue where id = '%s'"):format(id)))
    server:launch()
    builds.await(server, id, "building")
    builds.open_gate(server, id, 2)
    local build = builds.await(server, id, "success")
    assert.equal(2, build.attempt)
    assert.equal(0, build.retryCount)
    assert.equal(generation, build.generation)
    assert.equal("requeued success", attempts(server, id))
    server:stop()
  end)

  it("stops at once at the second signal, and takes its commands along", function()
    local server = Server.start { scripts = PIPELINES }
    local id, mark = start_command(server)
    server:kill "sigterm"
    server:wait_for(function() return server:log():find("stopping: no new builds", 1, true) end, 30)
    server:kill "sigterm"
    server.child:wait(30)
    server:wait_for(function() return processes(mark) == 0 end, 30)
    assert.equal("building", server:sql(("select status from build_queue where id = '%s'"):format(id)))
    server:launch()
    builds.await(server, id, "building")
    server:wait_for(function() return attempts(server, id) == "lost running" end, 30)
    assert.equal(202, server:post("/builds/" .. id .. "/cancel").status)
    builds.await(server, id, "cancelled")
    server:stop()
  end)
end)

describe("a server that is killed", function()
  it("leaves no command behind, and its next start takes the build over at once", function()
    local server = Server.start { config = { BuildQueue = { LeaseSeconds = 600 } }, scripts = PIPELINES }
    local id, mark = start_command(server)
    server:kill "sigkill"
    server.child:wait(30)
    server:wait_for(function() return processes(mark) == 0 end, 30)
    server:launch()
    server:wait_for(function() return attempts(server, id) == "lost running" end, 30)
    builds.open_gate(server, id, 2)
    local build = builds.await(server, id, "success")
    assert.equal(0, build.retryCount)
    server:stop()
  end)

  it("is replaced by another server after its lease", function()
    local options = { config = { BuildQueue = { LeaseSeconds = 3, MaxConcurrentBuilds = 1 } }, scripts = PIPELINES }
    local first = Server.start(options)
    local id = start_command(first)
    options.database = first.database
    local second = Server.start(options)
    first:kill "sigkill"
    first.child:wait(30)
    second:wait_for(function() return attempts(second, id) == "lost running" end, 40)
    builds.open_gate(second, id, 2)
    builds.await(second, id, "success")
    assert.equal("dead live", second:sql "select string_agg(state, ' ' order by state) from nodes")
    second:stop()
  end)

  it("changes nothing when it wakes up after its lease", function()
    local options = { config = { BuildQueue = { LeaseSeconds = 3, MaxConcurrentBuilds = 1 } }, scripts = PIPELINES }
    local first = Server.start(options)
    local id = start_command(first)
    options.database = first.database
    local second = Server.start(options)
    first:kill "sigstop"
    second:wait_for(function() return attempts(second, id) == "lost running" end, 40)
    builds.open_gate(first, id, 1) -- the stale attempt would succeed
    first:kill "sigcont"
    first:wait_for(function() return first:log():find("declared dead", 1, true) end, 30)
    builds.open_gate(second, id, 2)
    local build = builds.await(second, id, "success")
    assert.equal(2, build.attempt)
    first:wait_for(function() return not uv.fs_stat(("%s/output/%s"):format(first.directory, id)) end, 30)
    assert.equal("lost success", attempts(second, id))
    first:stop()
    second:stop()
  end)

  it("loses a build that takes it down again and again", function()
    local server = Server.start { scripts = PIPELINES }
    local id = start_command(server)
    for lost = 1, 4 do
      server:kill "sigkill"
      server.child:wait(30)
      server:launch()
      if lost < 4 then
        server:wait_for(function() return attempts(server, id) == ("lost "):rep(lost) .. "running" end, 30)
      end
    end
    local build = builds.await(server, id, "failed")
    assert.truthy(build.errorMessage:find("lost more than three times", 1, true), build.errorMessage)
    server:stop()
  end)
end)

describe("a state directory", function()
  it("belongs to one server", function()
    local server = Server.start { scripts = PIPELINES }
    local other = server:command { "serve" }
    assert.equal(1, other.code)
    assert.truthy(other.errors:find("another server uses the state directory", 1, true), other.errors)
    server:stop()
  end)
end)

describe("a database that goes away", function()
  it("is waited for: 503 meanwhile, and what ended is written when it is back", function()
    local server = Server.start { scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    postgres.stop "sigint" -- in order: the cluster of the specs does not sync, a crash would lose commits
    server:wait_for(function() return server:get("/readyz").status == 503 end, 20)
    local ready = server:get("/readyz")
    assert.equal("failing", ready.json.status)
    assert.equal(200, server:get("/healthz").status)
    local answer = server:get("/builds/" .. id)
    assert.equal(503, answer.status)
    assert.truthy(answer.headers["retry-after"])
    assert.equal(503, server:post("/builds", builds.request()).status)
    builds.open_gate(server, id)
    server:wait_for(function() return server:log():find("a write waits for the database", 1, true) end, 30)
    postgres.restart()
    local build
    server:wait_for(function()
      build = server:get("/builds/" .. id).json
      return build and build.status == "success"
    end, 40)
    assert.equal(1, build.attempt)
    server:wait_for(function() return server:get("/readyz").status == 200 end, 30)
    server:stop()
  end)

  it("may drop every connection at any time", function()
    local server = Server.start { config = { BuildQueue = { MaxConcurrentBuilds = 4 } }, scripts = PIPELINES }
    local ids = {}
    for i = 1, 60 do
      local answer = server:post("/builds", builds.request { pipeline = "noop" })
      if answer.status == 202 then ids[#ids + 1] = answer.json.jobId end
      if i % 10 == 0 then
        server:sql "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'buildq'"
      end
    end
    server:wait_for(function()
      return server:sql "select count(*) from build_queue where status in ('pending', 'building')" == "0"
    end, 40)
    for _, id in ipairs(ids) do
      assert.equal("success", server:sql(("select status from build_queue where id = '%s'"):format(id)))
    end
    assert.equal("0", server:sql "select max(retry_count) from build_queue")
    server:stop()
  end)
end)

describe("the private cluster", function()
  it("keeps builds over a restart", function()
    local server = Server.start { database = false, scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "noop" })
    builds.await(server, id, "success")
    assert.equal(0, server:stop())
    server:launch()
    assert.equal("success", server:get("/builds/" .. id).json.status)
    assert.equal(0, server:stop())
  end)
end)
