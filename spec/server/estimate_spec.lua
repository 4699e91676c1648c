-- Estimates from the history of builds, and why a build waits.
local json = require "dkjson"
local socket = require "socket"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

-- Finished builds as if they had taken so many seconds each, one after the other.
local function finish(server, seconds, fields)
  local f = { tier = "pro", architecture = "linux-x64", pipeline = "gate" }
  for name, value in pairs(fields or {}) do f[name] = value end
  server:sql(([[insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
      manifest_path, tier, architecture, cloud_provider, pipeline, status, completed_at, build_duration_seconds)
    select 'h', 'H', 'h@h', 'h', 'h', '%s', '%s', 'aws', '%s', 'success', now() + o * interval '1 ms', d
    from unnest(array[%s]::double precision[]) with ordinality as u(d, o)]]):format(
    f.tier, f.architecture, f.pipeline, table.concat(seconds, ",")))
end

local PRICES <const> = { ["policies/history.lua"] = [[return { estimate = function(build, history)
  if history.count == 0 then return nil end
  return { seconds = history.p50, secondsHigh = history.p90, cost = history.mean / 3600 * 36, currency = "EUR" }
end }]] }

local function estimate_of(server, more)
  return server:post("/builds", builds.request(more)).json.estimate
end

-- Until builds of this kind are expected to take so long; submits one, and cancels it.
local function wait_for_estimate(server, more, seconds)
  local id = builds.submit(server, more)
  local estimate
  server:wait_for(function()
    estimate = server:get("/builds/" .. id).json.estimate
    return estimate and estimate.seconds == seconds
  end, 30, function() return ("an estimate of %s s; it is %s"):format(seconds, json.encode(estimate)) end)
  server:post(("/builds/%s/cancel"):format(id))
  return estimate
end

describe("an estimate", function()
  local server

  setup(function()
    server = Server.start { scripts = builds.scripts(PRICES), config = { BuildQueue = { MaxConcurrentBuilds = 1 } } }
    server:post("/queue/pause", { reason = "so that nothing runs" })
  end)
  teardown(function() if server then server:stop() end end)

  it("is absent while nothing is known", function()
    assert.is_nil(estimate_of(server, { pipeline = "gate" }))
  end)

  it("comes from builds of the same pipeline, tier and architecture, in the 202 and in the build", function()
    finish(server, { 100, 100, 100, 100, 100, 200 })
    finish(server, { 900, 900, 900, 900, 900, 900 }, { tier = "free" })
    local estimate = wait_for_estimate(server, { pipeline = "gate" }, 100)
    assert.equal(150, estimate.secondsHigh)
    assert.near(700 / 6 / 100, estimate.cost, 0.001)
    assert.equal("EUR", estimate.currency)
    assert.same({ count = 6, of = "pipeline, tier, architecture" }, estimate.basedOn)
    local id = builds.submit(server, { pipeline = "gate" })
    assert.equal(100, server:get("/builds/" .. id).json.estimate.seconds)
    assert.equal(900, estimate_of(server, { pipeline = "gate", tier = "free" }).seconds)
  end)

  it("falls back to wider kinds", function()
    local other = estimate_of(server, { pipeline = "gate", tier = "unheard" })
    assert.equal("pipeline, architecture", other.basedOn.of)
    assert.equal(12, other.basedOn.count)
    assert.equal("pipeline", estimate_of(server, { pipeline = "gate", architecture = "other" }).basedOn.of)
    assert.equal("all", estimate_of(server, { pipeline = "quick" }).basedOn.of)
    -- Too few of the narrow kind to go by.
    finish(server, { 5 }, { architecture = "other" })
    finish(server, { 7 }, { pipeline = "quick" })
    server:wait_for(function()
      return estimate_of(server, { pipeline = "gate", architecture = "other" }).basedOn.count == 13
    end, 20)
    assert.equal("all", estimate_of(server, { pipeline = "quick" }).basedOn.of)
  end)

  it("goes by the last 200", function()
    local many = {}
    for index = 1, 205 do many[index] = index <= 5 and 100000 or 10 end
    finish(server, many, { tier = "bulk", architecture = "bulk" })
    local estimate = wait_for_estimate(server, { pipeline = "gate", tier = "bulk", architecture = "bulk" }, 10)
    assert.equal(200, estimate.basedOn.count)
    assert.equal(0.1, estimate.cost)
  end)

  it("is asked with the same fields everywhere", function()
    server:write("scripts", { ["policies/history.lua"] = [[return { estimate = function(build)
      local names = {}
      for name in pairs(build) do names[#names + 1] = name end
      return { seconds = #names, cost = build.metadata and build.metadata.size }
    end }]] })
    local more = { pipeline = "gate", metadata = { size = 3 } }
    server:wait_for(function() return estimate_of(server, more).seconds == 10 end, 10)
    local id = builds.submit(server, more)
    assert.same({ 10, 3 }, { estimate_of(server, more).seconds, estimate_of(server, more).cost })
    local shown = server:get("/builds/" .. id).json.estimate
    assert.same({ 10, 3 }, { shown.seconds, shown.cost })
  end)

  it("is the built-in one when the policy fails", function()
    server:write("scripts", { ["policies/history.lua"] = 'return { estimate = function() error "broken" end }' })
    server:wait_for(function()
      local estimate = estimate_of(server, { pipeline = "gate" })
      return estimate.seconds == 100 and not estimate.cost
    end, 10)
    assert.truthy(server:get("/metrics").body:find('buildq_policy_failures_total{hook="estimate"} [1-9]'))
    -- One that overruns costs its 20 ms once a second, not once a request.
    server:write("scripts", { ["policies/history.lua"] = 'return { estimate = function() while true do end end }' })
    server:wait_for(function()
      estimate_of(server, { pipeline = "gate" })
      return server:log():find("policy computed for more than", 1, true)
    end, 10, "the overrun")
    local id = builds.submit(server, { pipeline = "gate" })
    local from, count = socket.gettime(), 0
    while socket.gettime() < from + 2.5 do
      assert.equal(100, server:get("/builds/" .. id).json.estimate.seconds)
      count = count + 1
    end
    local failures = tonumber(server:get("/metrics").body:match('buildq_policy_failures_total{hook="estimate"} (%d+)'))
    assert.is_true(count > 20, count)
    assert.is_true(failures < 12, failures)
    server:write("scripts", {
      ["policies/history.lua"] = 'return { estimate = function() return { seconds = -1 } end }',
    })
    server:wait_for(function()
      estimate_of(server, { pipeline = "gate" })
      return server:log():find("seconds must be a number from 0", 1, true)
    end, 10, "the complaint")
  end)
end)

describe("explain", function()
  local server

  setup(function()
    server = Server.start { scripts = builds.scripts(PRICES), config = {
      BuildQueue = { MaxConcurrentBuilds = 1, EnableGracefulShutdown = false } } }
    finish(server, { 60, 60, 60, 60, 60, 60 })
    wait_for_estimate(server, { pipeline = "gate" }, 60)
    server:wait_for(function() return server:get("/builds/statistics").json.buildingCount == 0 end, 30)
  end)
  teardown(function() if server then server:stop() end end)

  local function explain(id) return server:get(("/builds/%s/explain"):format(id)).json end
  local function kinds(answer)
    local list = {}
    for index, reason in ipairs(answer.heldBackBy) do list[index] = reason.kind end
    return table.concat(list, " ")
  end

  it("says where a build stands and when it starts", function()
    local ids = {}
    for index = 1, 4 do ids[index] = builds.submit(server, { pipeline = "gate" }) end
    builds.await(server, ids[1], "building")
    local running = explain(ids[1])
    assert.equal("building", running.status)
    assert.near(60, running["end"].p50, 10)
    assert.is_nil(running.start)
    assert.equal("", kinds(running))
    local last = explain(ids[4])
    assert.same({ 3, 2, "3", "slots" }, { last.position, last.ahead, last.positionText, kinds(last) })
    assert.same({ total = 1, used = 1, free = 0 }, last.slots)
    assert.near(180, last.start.p50, 12)
    assert.near(240, last["end"].p90, 12)
    assert.equal(0, last.guesses)
    assert.truthy(last.summary:find("2 builds before it", 1, true), last.summary)
    assert.truthy(last.start.p50At:find("^%d%d%d%d%-%d%d%-%d%dT"))
    assert.equal(60, last.estimate.seconds)
    -- A higher priority comes first.
    server:patch("/builds/" .. ids[4], { priority = 3 })
    assert.same({ 1, "slots" }, { explain(ids[4]).position, kinds(explain(ids[4])) })

    server:post("/queue/pause", { reason = "inventory" })
    local paused = explain(ids[4])
    assert.equal("pause slots", kinds(paused))
    assert.truthy(paused.summary:find("inventory", 1, true))
    assert.is_nil(paused.start)
    server:post "/queue/resume"

    server:sql(("update build_queue set run_after = now() + interval '1000 s' where id = '%s'"):format(ids[3]))
    local retry = explain(ids[3])
    assert.equal("retry slots", kinds(retry))
    assert.near(1000, retry.start.p50, 5)
    assert.truthy(retry.heldBackBy[1]["until"])
    assert.is_nil(retry.position)
    -- What waits for its time is not before the others.
    assert.equal(1, explain(ids[2]).ahead)

    local command = server:command { "explain", "--server", "http://" .. server.address, ids[2] }
    assert.equal(0, command.code, command.errors)
    assert.truthy(command.output:find("1 build before it", 1, true), command.output)
    assert.truthy(command.output:find("takes      60 s, nine", 1, true), command.output)
    local status = server:command { "status", "--server", "http://" .. server.address, ids[2] }
    assert.truthy(status.output:find("\nestimate +60 s, nine times of ten not over 60 s; 0.60 EUR\n"), status.output)
    local enqueued = server:command({ "enqueue", "--server", "http://" .. server.address, "--request", "-" },
      { stdin = json.encode(builds.request { pipeline = "gate" }) })
    assert.equal("estimate: 60 s, nine times of ten not over 60 s; 0.60 EUR\n", enqueued.errors)
    server:post(("/builds/%s/cancel"):format((enqueued.output:gsub("%s", ""))))
    assert.equal(4, server:command({ "explain", "--server", "http://" .. server.address, "none" }).code)
    for _, id in ipairs(ids) do server:post(("/builds/%s/cancel"):format(id)) end
    builds.await(server, ids[1], "cancelled")
    assert.equal("it was cancelled", explain(ids[1]).summary)
    assert.equal(404, server:get("/builds/none/explain").status)
  end)

  it("says that no server takes builds", function()
    server:post("/queue/pause", { reason = "so that it waits" })
    local id = builds.submit(server, { pipeline = "gate" })
    server:post "/queue/pause"
    server:sql "update nodes set state = 'draining'"
    assert.equal("pause nodes", kinds(explain(id)))
    server:sql "update nodes set state = 'live'"
  end)

  it("costs the same however long the queue is", function()
    server:sql [[insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
        manifest_path, tier, architecture, cloud_provider, pipeline, status)
      select 'many', 'H', 'h@h', 'h', 'h', 'pro', 'linux-x64', 'aws', 'gate', 'pending'
      from generate_series(1, 30000)]]
    server:sql "analyze build_queue"
    local id = builds.submit(server, { pipeline = "gate", priority = 0 })
    local answer = explain(id)
    assert.same({ 10000, true, "10000+" }, { answer.ahead, answer.aheadCapped, answer.positionText })
    server:post "/queue/resume"
    answer = explain(id)
    assert.near(600000, answer.start.p50, 20000)
    server:sql "delete from build_queue where customer_id = 'many' and status = 'pending'"
  end)
end)
