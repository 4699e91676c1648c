-- The queue's promises: each build starts once, in order, and ends as it should.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local json = require "dkjson"

local PIPELINES <const> = builds.scripts {
  ["pipelines/noop.lua"] = "return { run = function() end }\n",
  ["pipelines/failing.lua"] = [[
    return { run = function(build) build:step("Trying", { at = 40 }, function() build:fail "no luck" end) end }
  ]],
  ["pipelines/hopeless.lua"] = [[
    return { run = function(build) build:fail("never again", { retry = false }) end }
  ]],
  -- Fails until its second attempt.
  ["pipelines/second.lua"] = [[
    return { run = function(build)
      build:step("Half", { at = 50 }, function() if build.attempt < 2 then error "first try" end end)
    end }
  ]],
  ["pipelines/sleeper.lua"] = [[
    return { run = function(build)
      build:defer(function() build:log "deferred ran" end)
      build:step("Sleeping", function() build:exec { argv = { "sleep", build.metadata.seconds } } end)
    end }
  ]],
}

local function starts(server, id)
  return tonumber(server:sql(("select count(*) from build_attempts where build_id = '%s'"):format(id)))
end

local function due_now(server, id)
  server:sql(("update build_queue set run_after = now() where id = '%s'"):format(id))
end

describe("one server", function()
  local server

  setup(function()
    server = Server.start {
      config = { BuildQueue = { MaxConcurrentBuilds = 2, PollIntervalSeconds = 1, RetryDelayMinutes = 5 } },
      scripts = PIPELINES,
      manifests = { ["good.json"] = { version = "1.0", name = "plain", tier = "pro", architecture = "linux-x64",
        cloudTargets = { { provider = "aws" } }, pipeline = "noop" }, ["bad.json"] = { version = "9" } },
    }
  end)

  teardown(function()
    if server then server:stop() end
  end)

  it("runs at most MaxConcurrentBuilds at a time", function()
    local ids = {}
    for i = 1, 4 do ids[i] = builds.submit(server, { pipeline = "gate" }) end
    server:wait_for(function()
      return server:sql "select count(*) from build_queue where status = 'building'" == "2"
    end, 30)
    assert.equal("2", server:sql "select count(*) from build_queue where status = 'pending'")
    for _, id in ipairs(ids) do
      builds.await(server, id, "building")
      builds.open_gate(server, id)
      builds.await(server, id, "success")
    end
  end)

  it("takes higher priorities first, also when a hand changes them", function()
    local blockers = { builds.submit(server, { pipeline = "gate" }), builds.submit(server, { pipeline = "gate" }) }
    for _, id in ipairs(blockers) do builds.await(server, id, "building") end
    local low = builds.submit(server, { pipeline = "noop", priority = "low" })
    local normal = builds.submit(server, { pipeline = "noop" })
    local high = builds.submit(server, { pipeline = "noop", priority = 2 })
    assert.equal(200, server:patch("/builds/" .. normal, { priority = 0 }).status)
    server:sql(("update build_queue set priority = 3 where id = '%s'"):format(low))
    builds.open_gate(server, blockers[1])
    for _, id in ipairs { low, normal, high } do builds.await(server, id, "success") end
    local order = server:sql(([[select string_agg(id::text, ' ' order by started_at) from build_queue
      where id in ('%s', '%s', '%s')]]):format(low, normal, high))
    assert.equal(("%s %s %s"):format(low, high, normal), order)
    builds.open_gate(server, blockers[2])
    builds.await(server, blockers[2], "success")
  end)

  it("claims what an old program inserts, and keeps its manifest's copy", function()
    local id = server:sql [[insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
      manifest_path, tier, architecture, cloud_provider) values ('old', 'Old', 'old@example.org', 'x', 'good.json',
      'pro', 'linux-x64', 'aws') returning id]]
    local build = builds.await(server, id:match "^%S+", "success")
    assert.equal(1, build.attempt)
    assert.equal("1", server:sql(([[select count(*) from build_manifests m join build_queue b
      on b.manifest_hash = m.hash where b.id = '%s']]):format(build.id)))
  end)

  it("fails a row with a bad manifest at once, and says why", function()
    local id = server:sql([[insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
      manifest_path, tier, architecture, cloud_provider) values ('old', 'Old', 'old@example.org', 'x', 'bad.json',
      'pro', 'linux-x64', 'aws') returning id]]):match "^%S+"
    local build = builds.await(server, id, "failed")
    assert.equal(1, build.retryCount)
    assert.truthy(build.errorMessage:find("version", 1, true), build.errorMessage)
  end)

  it("waits before a retry, longer each time, and gives up after four charged failures", function()
    local id = builds.submit(server, { pipeline = "failing" })
    local delays = {}
    for failure = 1, 3 do
      server:wait_for(function() return server:get("/builds/" .. id).json.retryCount == failure end, 30)
      local build = server:get("/builds/" .. id).json
      assert.equal("pending", build.status)
      assert.truthy(build.errorMessage:find("no luck", 1, true))
      delays[failure] = tonumber(server:sql(("select extract(epoch from run_after - updated_at) / 60 from build_queue "
        .. "where id = '%s'"):format(id)))
      due_now(server, id)
    end
    local build = builds.await(server, id, "failed")
    assert.equal(4, build.retryCount)
    assert.equal(4, build.attempt)
    for failure, delay in ipairs(delays) do
      local base = 5 * 2 ^ (failure - 1)
      local fits = delay >= base * 0.89 and delay <= base * 1.11
      assert.truthy(fits, ("retry %d after %.2f minutes"):format(failure, delay))
    end
  end)

  it("doesn't retry what says that it is no use", function()
    local build = builds.await(server, builds.submit(server, { pipeline = "hopeless" }), "failed")
    assert.equal(1, build.attempt)
  end)

  it("begins a new attempt without the old one's error, and succeeds without it", function()
    local id = builds.submit(server, { pipeline = "second" })
    server:wait_for(function() return server:get("/builds/" .. id).json.retryCount == 1 end, 30)
    due_now(server, id)
    local build = builds.await(server, id, "success")
    assert.equal(2, build.attempt)
    assert.equal(json.null, build.errorMessage)
    assert.equal(100, build.progressPercent)
  end)

  it("retries by hand from the beginning, in a new round", function()
    local id = builds.submit(server, { pipeline = "hopeless" })
    builds.await(server, id, "failed")
    assert.equal(202, server:post("/builds/" .. id .. "/retry").status)
    server:wait_for(function() return starts(server, id) == 2 end, 30)
    local build = builds.await(server, id, "failed")
    assert.equal(1, build.retryCount)
    assert.equal("1", server:sql(("select round from build_queue where id = '%s'"):format(id)))
  end)

  it("retries many at once", function()
    local since = server:sql "select to_char(now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    for _ = 1, 3 do builds.await(server, builds.submit(server, { pipeline = "hopeless" }), "failed") end
    local answer = server:post("/builds/retry", { status = "failed", since = since:match "%S+" })
    assert.equal(3, answer.json.count)
  end)

  it("cancels what waits and what runs, and ends its processes", function()
    local mark = "0.987654321" .. math.random(100000, 999999)
    local id = builds.submit(server, { pipeline = "sleeper", metadata = { seconds = "9999" .. mark } })
    local function running()
      local found = io.popen("exec pgrep -fc 'sleep 9999" .. mark:gsub("%.", "\\.") .. "$'"):read "a"
      return tonumber(found) or 0
    end
    server:wait_for(function() return running() > 0 end, 30)
    assert.equal(202, server:post("/builds/" .. id .. "/cancel", { reason = "changed my mind" }).status)
    local build = builds.await(server, id, "cancelled")
    assert.truthy(build.errorMessage:find("changed my mind", 1, true))
    server:wait_for(function() return running() == 0 end, 30)
    assert.truthy(server:get("/builds/" .. id .. "/log").body:find("deferred ran", 1, true))
    assert.equal(409, server:post("/builds/" .. id .. "/cancel").status)
  end)

  it("pauses and resumes, durably", function()
    assert.equal(200, server:post("/queue/pause", { reason = "spec" }).status)
    local id = builds.submit(server, { pipeline = "noop" })
    local probe = builds.submit(server, { pipeline = "noop" })
    assert.equal("t", server:sql "select paused from queue_control")
    assert.equal(200, server:post("/builds/" .. probe .. "/cancel").status) -- it still waits
    assert.equal(0, starts(server, id))
    assert.equal(200, server:post("/queue/resume").status)
    builds.await(server, id, "success")
  end)

  it("removes the workspace of every end", function()
    local id = builds.submit(server, { pipeline = "hopeless" })
    builds.await(server, id, "failed")
    local path = ("%s/builds/%s"):format(server.directory, id)
    server:wait_for(function() return not require("luv").fs_stat(path) end, 30)
  end)

  it("lets the old manual's clean-up delete, and keeps the history", function()
    local id = builds.submit(server, { pipeline = "noop" })
    builds.await(server, id, "success")
    server:sql(("update build_queue set completed_at = now() - interval '31 days' where id = '%s'"):format(id))
    server:sql "delete from build_queue where completed_at < now() - interval '30 days'"
    assert.equal(404, server:get("/builds/" .. id).status)
    assert.equal("3", server:sql(("select count(*) from build_events where build_id = '%s'"):format(id)))
    assert.equal("0", server:sql(("select count(*) from build_attempts where build_id = '%s'"):format(id)))
  end)
end)

describe("two servers on one database", function()
  it("start each of 200 builds once", function()
    local options = { config = { BuildQueue = { MaxConcurrentBuilds = 8 } }, scripts = PIPELINES }
    local first = Server.start(options)
    options.database = first.database
    local second = Server.start(options)
    for i = 1, 200 do builds.submit(i % 2 == 0 and first or second, { pipeline = "noop" }) end
    first:wait_for(function()
      return first:sql "select count(*) from build_queue where status = 'success'" == "200"
    end, 60)
    assert.equal("200", first:sql "select count(*) from build_attempts")
    assert.equal("1", first:sql "select max(attempt) from build_queue")
    assert.equal("2", first:sql "select count(distinct node_id) from build_attempts")
    assert.equal("600", first:sql "select count(*) from build_events") -- queued, started, success
    first:stop()
    second:stop()
  end)
end)

describe("a retry", function()
  it("runs on the newest scripts, unless its pipeline is pinned", function()
    local function failing(pin, text)
      return ("return { pin = %s, run = function(build) error %q end }\n"):format(pin, text)
    end
    local function scripts(words)
      return { ["pipelines/pinned.lua"] = failing('"build"', words), ["pipelines/free.lua"] = failing("nil", words) }
    end
    local server = Server.start { scripts = builds.scripts(scripts "old words") }
    local ids = { builds.submit(server, { pipeline = "pinned" }), builds.submit(server, { pipeline = "free" }) }
    for _, id in ipairs(ids) do
      server:wait_for(function() return server:get("/builds/" .. id).json.retryCount == 1 end, 30)
    end
    local before = server:get("/readyz").json.generation
    server:write("scripts", scripts "new words")
    server:wait_for(function()
      local now = server:get("/readyz").json
      return now.generation ~= before and now.status == "ok"
    end, 30)
    local said = {}
    for i, id in ipairs(ids) do
      due_now(server, id)
      server:wait_for(function() return server:get("/builds/" .. id).json.retryCount == 2 end, 30)
      said[i] = server:get("/builds/" .. id).json.errorMessage:match "(%a+) words"
    end
    assert.same({ "old", "new" }, said)
    server:stop()
  end)
end)

describe("options", function()
  it("keep the workspace, and write no outbox rows, when told so", function()
    local server = Server.start {
      config = { BuildQueue = { CleanupWorkspaceAfterBuild = false, EnableNotifications = false } },
      scripts = PIPELINES,
    }
    server:wait_for(function() return server:sql "select notifications from queue_control" == "f" end, 30)
    local id = builds.submit(server, { pipeline = "noop" })
    builds.await(server, id, "success")
    assert.truthy(require("luv").fs_stat(("%s/builds/%s/attempt-1"):format(server.directory, id)))
    assert.equal("0", server:sql "select count(*) from outbox")
    server:stop()
  end)

  it("owe each mail once by default", function()
    local server = Server.start { scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "noop" })
    builds.await(server, id, "success")
    local owed = server:sql(([[select string_agg(event, ' ' order by event) from outbox
      where build_id = '%s']]):format(id))
    assert.equal("completed queued started", owed)
    server:stop()
  end)
end)
