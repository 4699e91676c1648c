-- The queue's promises: each build starts once, in order, and ends as it should.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"
local postgres = require "spec.support.postgres"
local json = require "dkjson"
local uv = require "luv"

local PIPELINES <const> = builds.scripts {
  ["pipelines/noop.lua"] = "return { run = function() end }\n",
  ["pipelines/file.lua"] = [[
    return { run = function() require("buildq").fs.write("made.txt", "x") end }
  ]],
  ["pipelines/failing.lua"] = [[
    return { run = function(build) build:step("Trying", { at = 40 }, function() build:fail "no luck" end) end }
  ]],
  ["pipelines/hopeless.lua"] = [[
    return { run = function(build) build:fail("never again", { retry = false }) end }
  ]],
  -- Fails until its second attempt, which shows itself before its first step.
  ["pipelines/second.lua"] = [[
    local buildq = require "buildq"
    return { run = function(build)
      while build.attempt > 1 and not buildq.fs.exists "go" do buildq.sleep(0.02) end
      build:step("Half", { at = 50 }, function() if build.attempt < 2 then error "first try" end end)
    end }
  ]],
  -- Says 60 percent, then 30.
  ["pipelines/backwards.lua"] = [[
    local buildq = require "buildq"
    return { run = function(build)
      build:progress(60, "far")
      while not buildq.fs.exists "go" do buildq.sleep(0.02) end
      build:progress(30, "back")
      build:step("Later", function() while not buildq.fs.exists "end" do buildq.sleep(0.02) end end)
    end }
  ]],
  -- Each step waits for a file of its name.
  ["pipelines/weighing.lua"] = [=[
    local buildq = require "buildq"
    return { run = function(build)
      local function step(name, options)
        build:step(name, options, function() while not buildq.fs.exists(name) do buildq.sleep(0.02) end end)
      end
      step("One", { weight = 1 })
      step("Eight", { weight = 8 })
      build:step("Plain", function() while not buildq.fs.exists "Plain" do buildq.sleep(0.02) end end)
      step("Fixed", { at = 60, weight = 1 })
      step("Last", { weight = 1 })
    end }
  ]=],
  -- Three steps, the second and the third right after each other.
  ["pipelines/steps.lua"] = [[
    local buildq = require "buildq"
    local function wait(file) while not buildq.fs.exists(file) do buildq.sleep(0.02) end end
    return { run = function(build)
      build:step("One", { at = 10 }, function() wait "go" end)
      build:step("Two", { at = 20 }, function() buildq.sleep(0.4) end)
      build:step("Three", { at = 30 }, function() build:log "in three" wait "end" end)
    end }
  ]],
  -- Leaves a link to a directory of somebody else's in its workspace, then ends as it is told.
  ["pipelines/link.lua"] = [[
    return { run = function(build)
      build:exec { argv = { "ln", "-s", build.metadata.target, "link" } }
      build:exec { argv = { "sh", "-c", "mkdir -p deep/er && touch deep/er/file && chmod 500 deep/er" } }
      if build.metadata.ends == "failed" then build:fail("told so", { retry = false }) end
      if build.metadata.ends == "cancelled" then build:exec { argv = { "sleep", "3600" } } end
    end }
  ]],
  ["pipelines/publish.lua"] = [[
    local buildq = require "buildq"
    return { run = function(build)
      buildq.fs.write("x.txt", "attempt " .. build.attempt)
      build:artifact "x.txt"
      while not buildq.fs.exists "go" do buildq.sleep(0.02) end
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

-- As an old enqueuer does it; `before` is SQL of the same session.
local function insert(server, manifest, before)
  return server:sql(([[%s insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
    manifest_path, tier, architecture, cloud_provider) values ('old', 'Old', 'old@example.org', 'x', '%s',
    'pro', 'linux-x64', 'aws') returning id]]):format(before or "", manifest)):match "^%S+"
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
    local build = builds.await(server, insert(server, "good.json"), "success")
    assert.equal(1, build.attempt)
    assert.equal("1", server:sql(([[select count(*) from build_manifests m join build_queue b
      on b.manifest_hash = m.hash where b.id = '%s']]):format(build.id)))
  end)

  it("fails a row with a bad manifest at once, and says why", function()
    local build = builds.await(server, insert(server, "bad.json"), "failed")
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
    local waiting = server:get("/builds/" .. id).json
    assert.same({ 50, "Half" }, { waiting.progressPercent, waiting.currentStep }) -- where it failed
    due_now(server, id)
    local build = builds.await(server, id, "building")
    assert.same({ 2, 0, json.null, json.null },
      { build.attempt, build.progressPercent, build.currentStep, build.errorMessage })
    builds.open_gate(server, id, 2)
    build = builds.await(server, id, "success")
    assert.equal(2, build.attempt)
    assert.equal(json.null, build.errorMessage)
    assert.equal(100, build.progressPercent)
  end)

  it("shares progress by the weights of steps, as soon as a success has shown which there are", function()
    local function begins()
      local seen, id = {}, builds.submit(server, { pipeline = "weighing" })
      for _, name in ipairs { "One", "Eight", "Plain", "Fixed", "Last" } do
        server:wait_for(function()
          local build = server:get("/builds/" .. id).json
          seen[#seen + 1] = build.currentStep == name and build.progressPercent or nil
          return build.currentStep == name
        end, 30, name)
        process.write(builds.workspace(server, id) .. "/" .. name, "")
      end
      builds.await(server, id, "success")
      return seen
    end
    assert.same({ 0, 50, 94, 97, 98 }, begins()) -- 1/2 of 100, 8/9 of the rest, …: nothing is known
    assert.same({ 0, 6, 54, 60, 80 }, begins()) -- 1, 8 and 1 share 60; 1 and 1 what is left behind it
  end)

  it("never lets progress fall within an attempt", function()
    local id = builds.submit(server, { pipeline = "backwards" })
    server:wait_for(function() return server:get("/builds/" .. id).json.progressPercent == 60 end, 30)
    builds.open_gate(server, id)
    local build
    server:wait_for(function()
      build = server:get("/builds/" .. id).json
      return build.currentStep == "Later"
    end, 30)
    assert.equal(60, build.progressPercent)
    process.write(builds.workspace(server, id) .. "/end", "")
    builds.await(server, id, "success")
  end)

  it("shows the latest progress also when writing the one before took its time", function()
    local id = builds.submit(server, { pipeline = "steps" })
    server:wait_for(function() return server:get("/builds/" .. id).json.currentStep == "One" end, 30)
    -- Somebody's transaction holds the row until "Three" has begun and the time of its write has gone by.
    local holder = process.spawn({ "psql", "-XAtq", "-d", postgres.connection_string(server.database), "-f", "-" }, {
      stdin = ("begin; select 'held' from build_queue where id = '%s' for update; select pg_sleep(2); commit;\n")
        :format(id) })
    server:wait_for(function() return holder.output:find "held" end, 30)
    builds.open_gate(server, id)
    server:wait_for(function() return builds.log(server, id):find "in three" end, 30)
    assert.falsy(holder.code)
    assert.equal(0, holder:wait(30))
    server:wait_for(function() return server:get("/builds/" .. id).json.currentStep == "Three" end, 2)
    process.write(builds.workspace(server, id) .. "/end", "")
    builds.await(server, id, "success")
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

  it("removes the workspace of every end, and follows no link out of it", function()
    for _, ends in ipairs { "success", "failed", "cancelled" } do
      local id = builds.submit(server, { pipeline = "link",
        metadata = { ends = ends, target = server.directory .. "/manifests" } })
      local path = ("%s/builds/%s"):format(server.directory, id)
      if ends == "cancelled" then
        server:wait_for(function() return uv.fs_stat(path .. "/attempt-1/deep/er/file") end, 30)
        assert.equal(202, server:post("/builds/" .. id .. "/cancel").status)
      end
      builds.await(server, id, ends)
      server:wait_for(function() return not uv.fs_lstat(path) end, 30, "the end of " .. path)
    end
    assert.truthy(uv.fs_stat(server.directory .. "/manifests/good.json"))
  end)

  it("changes nothing by an attempt that is not the present one any more", function()
    local id = builds.submit(server, { pipeline = "publish" })
    builds.await(server, id, "building")
    server:wait_for(function() return uv.fs_stat(builds.workspace(server, id) .. "/x.txt") end, 30)
    local other = server:sql([[insert into nodes (id, name, url, version, slots, lease_seconds)
      values (gen_random_uuid(), 'other', 'http://other', '1', 1, 3600) returning id]]):match "%S+"
    server:sql(("update build_queue set attempt = 2, node_id = '%s', progress_percent = 7 where id = '%s'")
      :format(other, id))
    builds.open_gate(server, id)
    server:wait_for(function() return server:log():find(id:gsub("%-", "%%-") .. "[^\n]* status=superseded") end, 30)
    assert.equal("building|2|7|0", server:sql(([[select status, attempt, progress_percent, retry_count
      from build_queue where id = '%s']]):format(id)))
    assert.equal("queued started", server:sql(([[select string_agg(event, ' ' order by event) from outbox
      where build_id = '%s']]):format(id)))
    server:wait_for(function() return not uv.fs_stat(("%s/output/%s"):format(server.directory, id)) end, 30)
    server:sql(("update nodes set state = 'dead' where id = '%s'"):format(other))
    server:sql(("delete from build_queue where id = '%s'"):format(id))
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
  local first, second

  setup(function()
    local options = { config = { BuildQueue = { MaxConcurrentBuilds = 8 } }, scripts = PIPELINES }
    first = Server.start(options)
    options.database = first.database
    second = Server.start(options)
  end)

  teardown(function()
    if first then first:stop() end
    if second then second:stop() end
  end)

  it("start each of 200 builds once", function()
    for i = 1, 200 do builds.submit(i % 2 == 0 and first or second, { pipeline = "noop" }) end
    first:wait_for(function()
      return first:sql "select count(*) from build_queue where status = 'success'" == "200"
    end, 60)
    assert.equal("200", first:sql "select count(*) from build_attempts")
    assert.equal("1", first:sql "select max(attempt) from build_queue")
    assert.equal("2", first:sql "select count(distinct node_id) from build_attempts")
    assert.equal("600", first:sql "select count(*) from build_events") -- queued, started, success
    local started = select(2, (first:log() .. second:log()):gsub("attempt started", ""))
    assert.equal(200, started)
  end)

  it("make one build of requests that come at the same time with the same key", function()
    local body = json.encode(builds.request { pipeline = "noop", customerId = "concurrent" })
    local connections = {}
    for i = 1, 16 do
      local server = i % 2 == 0 and first or second
      connections[i] = server:connect(30)
      -- All but the last byte, so that the requests become whole in one moment.
      assert(connections[i]:send(("POST /builds HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
        .. "Idempotency-Key: at-once\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s")
        :format(server.address, #body, body:sub(1, -2))))
    end
    for _, connection in ipairs(connections) do assert(connection:send(body:sub(-1))) end
    local ids = {}
    for _, connection in ipairs(connections) do
      local answer = connection:receive "*a"
      connection:close()
      assert.equal("202", answer:match "^HTTP/1.1 (%d+)", answer)
      ids[answer:match '"jobId": *"([^"]+)"'] = true
    end
    local id = next(ids)
    assert.same({ [id] = true }, ids)
    assert.equal(id, first:sql "select id from build_queue where customer_id = 'concurrent'")
    builds.await(first, id, "success")
  end)

  it("cancel what the other one runs", function()
    first:post("/queue/pause", { reason = "spec" })
    local id = builds.submit(first, { pipeline = "sleeper", metadata = { seconds = "3600" } })
    first:post "/queue/resume"
    builds.await(first, id, "building")
    local node = first:sql(("select node_id from build_queue where id = '%s'"):format(id))
    local other = first:log():find(node, 1, true) and second or first
    assert.falsy(other:log():find(node, 1, true))
    assert.equal(202, other:post("/builds/" .. id .. "/cancel", { reason = "from afar" }).status)
    local build = builds.await(other, id, "cancelled", 10) -- by the notification: a heartbeat is due every 10 s
    assert.truthy(build.errorMessage:find("from afar", 1, true))
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

describe("a pause", function()
  it("outlives the servers", function()
    local server = Server.start {
      config = { BuildQueue = { PollIntervalSeconds = 1, LeaseSeconds = 3 } }, scripts = PIPELINES,
      manifests = { ["good.json"] = { version = "1.0", name = "plain", pipeline = "noop" } },
    }
    assert.equal(200, server:post("/queue/pause", { reason = "long weekend" }).status)
    server:stop()
    server:launch()
    server:wait_for(function() return server:get("/readyz").body:find("long weekend", 1, true) end, 30)
    local ids = { builds.submit(server, { pipeline = "noop" }), insert(server, "good.json") }
    -- Two heartbeats later several polls have been by.
    local seen = server:sql "select heartbeat_at + interval '2 seconds' from nodes where state = 'live'"
    server:wait_for(function()
      return server:sql(("select heartbeat_at > '%s' from nodes where state = 'live'"):format(seen)) == "t"
    end, 30)
    assert.equal("2", server:sql "select count(*) from build_queue where status = 'pending' and attempt = 0")
    assert.equal(200, server:post("/queue/resume").status)
    for _, id in ipairs(ids) do builds.await(server, id, "success") end
    server:stop()
  end)
end)

describe("the poll", function()
  -- Neither announced nor asked for: only the poll finds it.
  local QUIET <const> = "set buildq.announces = 'on';"

  local function start(interval)
    return Server.start {
      config = { BuildQueue = { PollIntervalSeconds = interval, LeaseSeconds = 3 } }, scripts = PIPELINES,
      manifests = { ["good.json"] = { version = "1.0", name = "plain", pipeline = "noop" } },
    }
  end

  it("finds within PollIntervalSeconds what nobody announced", function()
    local server = start(2)
    for _ = 1, 3 do
      local id = insert(server, "good.json", QUIET)
      builds.await(server, id, "success")
      assert.equal("t", server:sql(("select started_at - enqueued_at < interval '3 seconds' from build_queue "
        .. "where id = '%s'"):format(id)))
    end
    server:stop()
  end)

  it("is the only one to find it; what is announced is found at once", function()
    local server = start(3600)
    -- Two seconds of the node's own heartbeats later.
    local function let_pass()
      local seen = server:sql "select heartbeat_at + interval '2 seconds' from nodes where state = 'live'"
      server:wait_for(function()
        return server:sql(("select heartbeat_at > '%s' from nodes where state = 'live'"):format(seen)) == "t"
      end, 30)
    end
    server:wait_for(function() return server:sql "select count(*) from script_generations" == "1" end, 30)
    let_pass() -- that the scripts are stored makes it look, too
    local id = insert(server, "good.json", QUIET)
    let_pass()
    assert.equal("pending", server:get("/builds/" .. id).json.status)
    builds.await(server, insert(server, "good.json"), "success", 10)
    builds.await(server, id, "success", 10)
    server:stop()
  end)
end)

describe("retries", function()
  it("follow the options, also those changed by SIGHUP", function()
    local server = Server.start {
      config = { BuildQueue = { MaxRetryAttempts = 2, RetryDelayMinutes = 7, UseExponentialBackoff = false,
        PollIntervalSeconds = 1 } },
      scripts = PIPELINES,
    }
    local function reload(options)
      for name, value in pairs(options) do server.config.BuildQueue[name] = value end
      server:write_config()
      local from = #server:log()
      server:kill "sighup"
      server:wait_for(function() return server:log():find("option changed", from + 1, true) end, 30)
    end
    local function delay(id, failure)
      server:wait_for(function() return server:get("/builds/" .. id).json.retryCount == failure end, 30)
      return tonumber(server:sql(("select extract(epoch from run_after - updated_at) / 60 from build_queue "
        .. "where id = '%s'"):format(id)))
    end

    local id = builds.submit(server, { pipeline = "failing" })
    for failure = 1, 2 do -- not exponential: about the same each time
      local minutes = delay(id, failure)
      assert.truthy(minutes >= 6.29 and minutes <= 7.71, ("retry %d after %.2f minutes"):format(failure, minutes))
      due_now(server, id)
    end
    assert.equal(3, builds.await(server, id, "failed").attempt)

    reload { RetryDelayMinutes = 1440, UseExponentialBackoff = true }
    id = builds.submit(server, { pipeline = "failing" })
    delay(id, 1)
    due_now(server, id)
    assert.equal(1440, delay(id, 2)) -- never more than a day
    assert.equal(200, server:post("/builds/" .. id .. "/cancel").status)
    assert.equal("cancelled", server:get("/builds/" .. id).json.status)

    reload { MaxRetryAttempts = 1, RetryDelayMinutes = 0 }
    assert.equal(2, builds.run(server, { pipeline = "failing" }, "failed").attempt)
    reload { MaxRetryAttempts = 0 }
    assert.equal(1, builds.run(server, { pipeline = "failing" }, "failed").attempt)
    server:stop()
  end)
end)

describe("a batch", function()
  it("shares its commit, and one bad row fails none of its neighbours", function()
    local server = Server.start { config = { BuildQueue = { MaxConcurrentBuilds = 30, MaxRetryAttempts = 0 } },
      scripts = PIPELINES }
    server:sql [[
      create function spec_refuse() returns trigger language plpgsql as $$ begin
        if new.configuration_name = 'refused'
          or (new.configuration_name = 'refused at its end' and new.status = 'success')
        then
          raise exception 'not this one' using errcode = 'check_violation';
        end if;
        return new;
      end $$;
      create trigger spec_refuse before insert or update on build_queue for each row execute function spec_refuse();
    ]]
    server:post("/queue/pause", { reason = "spec" })
    local connections = {}
    for i = 1, 30 do
      local name = i == 11 and "refused" or i == 21 and "refused at its end" or "main"
      local body = json.encode(builds.request { pipeline = "noop", configurationName = name })
      connections[i] = server:connect(30)
      connections[i]:send(("POST /builds HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n" ..
        "Connection: close\r\nContent-Length: %d\r\n\r\n%s"):format(server.address, #body, body))
    end
    local ids, answers = {}, {}
    for i, connection in ipairs(connections) do
      local answer = connection:receive "*a"
      answers[i] = tonumber(answer:match "^HTTP/1.1 (%d+)")
      ids[i] = answer:match '"jobId":"([%x-]+)"'
      -- It is answered when its row is there for everybody.
      if ids[i] then assert.equal("t", server:sql(("select true from build_queue where id = '%s'"):format(ids[i]))) end
      connection:close()
    end
    for i, status in ipairs(answers) do assert.equal(i == 11 and 400 or 202, status, i) end
    server:post "/queue/resume"
    for i, id in pairs(ids) do builds.await(server, id, i == 21 and "failed" or "success") end
    assert.matches("refused by the database", server:get("/builds/" .. ids[21]).json.errorMessage)
    assert.equal("failed 1|queued 29|started 29|success 28", server:sql [[select string_agg(line, '|' order by line)
      from (select type || ' ' || count(*) as line from build_events group by type) as lines]])
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
    local id = builds.submit(server, { pipeline = "file" })
    builds.await(server, id, "success")
    assert.truthy(uv.fs_stat(("%s/builds/%s/attempt-1/made.txt"):format(server.directory, id)))
    assert.equal("0", server:sql "select count(*) from outbox")
    server:stop()
  end)

  it("owe each mail once by default", function()
    local server = Server.start { scripts = PIPELINES }
    local function owed(id)
      return server:sql(([[select string_agg(event, ' ' order by event) from outbox where build_id = '%s']]):format(id))
    end
    local id = builds.submit(server, { pipeline = "noop" })
    builds.await(server, id, "success")
    assert.equal("completed queued started", owed(id))
    id = builds.submit(server, { pipeline = "hopeless" })
    builds.await(server, id, "failed")
    assert.equal("failed queued started", owed(id))
    -- Switched off on the running server, nothing more is owed.
    server.config.BuildQueue.EnableNotifications = false
    server:write_config()
    server:kill "sighup"
    server:wait_for(function() return server:sql "select notifications from queue_control" == "f" end, 30)
    id = builds.submit(server, { pipeline = "noop" })
    builds.await(server, id, "success")
    assert.equal("", owed(id))
    server:stop()
  end)
end)
