-- Where builds stand and whether they are taken: priority and admission policies on a running server.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local json = require "dkjson"
local process = require "spec.support.process"
local sessions = require "spec.support.sessions"

local server

local function ready() return server:get("/readyz").json end

-- Saves policies and waits until they run.
local function save(files)
  local before = ready().generation
  local all = {}
  for name, text in pairs(files) do all[("policies/%s.lua"):format(name)] = text end
  server:write("scripts", all)
  server:wait_for(function() return ready().generation ~= before end, 10, "the policies")
end

local function use(hooks)
  local parts = {}
  for hook, file in pairs(hooks) do parts[#parts + 1] = ("%s = %q"):format(hook, file) end
  save { active = ("return { %s }\n-- %s"):format(table.concat(parts, ", "), os.clock()) }
end

local function shipped(name)
  local file <close> = assert(io.open(("scripts/policies/%s.lua"):format(name)))
  return file:read "a"
end

-- Names (configurationName) of what is pending, in the order of claims.
local function order()
  return server:sql [[select coalesce(string_agg(configuration_name, ' ' order by claim_key), '') from build_queue
    where status = 'pending']]
end

local function submit(name, more)
  local body = { configurationName = name }
  for key, value in pairs(more or {}) do body[key] = value end
  return builds.submit(server, body)
end

local function failures(hook)
  local pattern = ('buildq_policy_failures_total{hook="%s"} (%%d+)'):format(hook)
  return tonumber(server:get("/metrics").body:match(pattern) or 0)
end

-- `count` POSTs at the same moment, each on a connection of its own, to `others` too; how many of each status.
local function storm(count, more, header, others)
  local body = json.encode(builds.request(more))
  local text = ("Content-Type: application/json\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s")
    :format(#body, header or "", body)
  local connections, statuses, last = {}, {}, {}
  local to = { server, table.unpack(others or {}) }
  for n = 1, count do connections[n] = to[n % #to + 1]:connect(30) end
  for n, connection in ipairs(connections) do
    assert(connection:send(("POST /builds HTTP/1.1\r\nHost: %s\r\n%s"):format(to[n % #to + 1].address, text)))
  end
  for _, connection in ipairs(connections) do
    local answer = connection:receive "*a"
    connection:close()
    local status = tonumber(answer:match "^HTTP/1%.1 (%d+)")
    statuses[status] = (statuses[status] or 0) + 1
    last[status] = answer
  end
  return statuses, last
end

setup(function()
  server = Server.start {
    config = { BuildQueue = { MaxConcurrentBuilds = 2, PollIntervalSeconds = 1, MaxConnectionsPerPeer = 200 } },
    scripts = builds.scripts {
      ["pipelines/large.lua"] = [[
        local buildq = require "buildq"
        return { run = function(build)
          build:step("Only", function()
            buildq.fs.write("large", ("x"):rep((build.metadata.megabytes - 1) * 1024 * 1024 + 1))
          end)
        end }]],
    },
  }
  assert.equal(200, server:post("/queue/pause", { reason = "to look at the order" }).status)
end)

teardown(function()
  if server then server:stop() end
end)

before_each(function()
  server:sql "delete from build_queue; delete from claim_tags"
end)

describe("a priority policy", function()
  it("is strict unless another one is named: nothing is placed by it", function()
    submit "low"
    submit("high", { priority = 3 })
    submit "later"
    assert.equal("high low later", order())
    assert.equal("0", server:sql "select count(*) from builds_to_place")
    assert.equal("0", server:sql "select count(keyed_by) from build_queue")
  end)

  it("may be aging: a head start, and no more", function()
    use { priority = "aging" }
    submit "old"
    server:sql "update build_queue set enqueued_at = enqueued_at - interval '3 hours 1 second'"
    server:wait_for(function() return server:sql "select count(keyed_by) from build_queue" == "1" end, 10, "its place")
    submit("critical", { priority = 3 })
    submit("normal", { priority = 1 })
    submit("high", { priority = 2 })
    assert.equal("old critical high normal", order())
  end)

  it("may be fair: customers take turns inside a priority", function()
    use { priority = "fair" }
    for n = 1, 4 do submit("a" .. n, { customerId = "a" }) end
    for n = 1, 3 do submit("b" .. n, { customerId = "b" }) end
    submit("urgent", { customerId = "a", priority = 2 })
    local turns = order()
    assert.truthy(turns:find "^urgent [ab]1 [ab]1 [ab]2 [ab]2 [ab]3 [ab]3 a4$", turns)
    -- A retry that waits does not hold the time of the queue back.
    server:sql [[update build_queue set attempt = 1, run_after = now() + interval '1 day'
      where configuration_name in ('a1', 'b1', 'a2', 'b2')]]
    submit("next", { customerId = "d" })
    assert.truthy(order():find "^urgent [ab]1 [ab]1 [ab]2 [ab]2 [abn]%w+ [abn]%w+ [abn]%w+ a4$", order())
    server:sql "delete from build_queue where configuration_name = 'next'"
    -- Who comes when others have had their share for long begins with them, neither before nor behind.
    server:sql "update build_queue set status = 'cancelled' where configuration_name in ('a1', 'b1', 'a2', 'b2')"
    submit("new", { customerId = "c" })
    turns = order()
    assert.truthy(turns:find("^urgent [abn]%w+ [abn]%w+ [abn]%w+ a4$") and turns:find "new", turns)
  end)

  it("that is changed places what is pending anew, and takes it back", function()
    use { priority = "strict" }
    for n = 1, 3 do submit("b" .. n, { customerId = "b" }) end
    server:sql [[
      insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path, tier,
        architecture, cloud_provider, enqueued_at)
      select 'a', 'A', 'a@example.org', 'a' || n, 'x.json', 'pro', 'linux-x64', 'aws', now() - interval '1 hour'
        + n * interval '1 second' from generate_series(1, 450) as n]]
    assert.truthy(order():find "^a1 a2 a3 a4")
    use { priority = "fair" }
    server:wait_for(function() return order():find "^[ab]1 [ab]1 [ab]2 [ab]2 [ab]3 [ab]3 a4 a5" end, 20, "fair places")
    local function left() return server:sql "select count(*) from builds_to_place" end
    server:wait_for(function() return left() == "0" end, 10, "the end")
    assert.equal("453", server:sql "select count(keyed_by) from build_queue")
    use { priority = "strict" }
    server:wait_for(function() return order():find "^a1 a2 a3 a4" end, 20, "the old places")
    server:wait_for(function() return server:sql "select count(keyed_by) from build_queue" == "0" end, 20, "all")
  end)

  it("that is changed places also what was being written meanwhile", function()
    use { priority = "strict" }
    local session = sessions.open(server.database)
    session:ask "begin"
    session:ask [[insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
      manifest_path, tier, architecture, cloud_provider, pipeline) values ('x', 'X', 'x@x.example', 'slow', 'm.json',
      'pro', 'linux-x64', 'aws', 'quick')]]
    use { priority = "fair" }
    server:wait_for(function()
      return server:sql "select priority_policy is not null from queue_control" == "t"
    end, 20, "the change")
    session:ask "commit"
    server:wait_for(function() return server:sql "select count(keyed_by) from build_queue" == "1" end, 30, "its place")
  end)

  it("that is changed places what is pending anew while claims go on", function()
    server:write("manifests", { ["quick.json"] = { version = "1.0", name = "quick", pipeline = "quick" } })
    use { priority = "strict" }
    server:sql [[
      insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path, tier,
        architecture, cloud_provider)
      select 'c' || n % 7, 'C', 'c@example.org', 'b' || n, 'quick.json', 'pro', 'linux-x64', 'aws'
      from generate_series(1, 20000) as n]]
    assert.equal(200, server:post("/queue/resume").status)
    finally(function() server:post("/queue/pause", { reason = "to look at the order" }) end)
    local function look()
      local left, done = server:sql [[select (select count(*) from builds_to_place) || ' ' ||
        (select count(*) from build_queue where status = 'success')]]:match "(%d+) (%d+)"
      return tonumber(left), tonumber(done)
    end
    server:wait_for(function() return select(2, look()) > 0 end, 20, "the first builds")
    use { priority = "fair" }
    local first, last
    server:wait_for(function()
      local left, done = look()
      if left > 0 then
        first = first or done
        last = done
      end
      return first and left == 0
    end, 60, "all to be placed")
    assert.truthy(last > first, ("%d builds were done when it began, %d when it ended"):format(first, last))
    assert.equal("0", server:sql "select count(*) from build_queue where attempt > 1 or status = 'failed'")
  end)

  it("places what waits again after the policy has changed", function()
    use { priority = "strict" }
    local ids = { submit "runs", submit "ended" }
    server:sql "update build_queue set status = 'building' where configuration_name = 'runs'"
    server:sql "update build_queue set status = 'failed' where configuration_name = 'ended'"
    use { priority = "aging" }
    submit "new"
    local function placed(name)
      return server:sql(([[select keyed_by = priority_policy from build_queue, queue_control
        where configuration_name = '%s']]):format(name)) == "t"
    end
    server:wait_for(function() return placed "new" end, 10, "the policy")
    server:sql "update build_queue set status = 'pending' where configuration_name = 'runs'" -- its node was lost
    assert.equal(202, server:post(("/builds/%s/retry"):format(ids[2])).status)
    server:wait_for(function() return placed "runs" and placed "ended" end, 10, "their places")
    assert.equal("runs ended new", order())
  end)

  it("places what came by plain SQL, and what a hand changed", function()
    save { mine = [[return { priority = function(build)
      return { key = build.enqueuedAt, reason = "as it came, priority " .. build.priority }
    end }]], active = "return { priority = 'mine' }" }
    server:sql [[insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,
      tier, architecture, cloud_provider, priority) values ('p', 'P', 'p@example.org', 'plain', 'x.json', 'pro',
      'linux-x64', 'aws', 3)]]
    local id = submit "posted"
    local function reason(name)
      return server:sql(("select policy_reason from build_queue where configuration_name = '%s'"):format(name))
    end
    server:wait_for(function() return reason "plain" == "as it came, priority 3" end, 10, "its place")
    assert.equal("as it came, priority 1", server:get("/builds/" .. id).json.policyReason)
    assert.equal("as it came, priority 1", server:sql(([[select data ->> 'policyReason' from build_events
      where build_id = '%s' and type = 'queued']]):format(id)))
    assert.equal(200, server:patch("/builds/" .. id, { priority = 2 }).status)
    server:wait_for(function() return reason "posted" == "as it came, priority 2" end, 10, "its new place")
    assert.equal("plain posted", order())
  end)

  it("places a crowd that came by plain SQL in the order in which it came", function()
    use { priority = "fair" }
    submit "first" -- once it is placed by this policy, the policy is in force
    server:wait_for(function()
      return server:sql "select keyed_by = priority_policy from build_queue, queue_control" == "t"
    end, 10, "the policy")
    server:sql [[insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,
        tier, architecture, cloud_provider)
      select 'a', 'A', 'a@example.org', 'a' || lpad(n::text, 3, '0'), 'x.json', 'pro', 'linux-x64', 'aws'
      from generate_series(1, 300) as n]]
    server:wait_for(function() return server:sql "select count(*) from builds_to_place" == "0" end, 10, "their places")
    assert.equal("t", server:sql [[select array_agg(configuration_name order by claim_key)
      = array_agg(configuration_name order by configuration_name) from build_queue where customer_id = 'a']])
  end)

  it("that fails leaves the built-in rule, and is counted", function()
    save { mine = "return { priority = function(build) return build.none.x end }",
      active = "return { priority = 'mine' }" }
    local before = failures "priority"
    submit "low"
    submit("high", { priority = 3 })
    assert.equal("high low", order())
    assert.truthy(failures "priority" >= before + 2)
  end)

  it("may change the priority, and remembers what was asked for", function()
    save { mine = [[return { priority = function(build) return { priority = 3, reason = "all are" } end }]],
      active = "return { priority = 'mine' }" }
    local id = submit("one", { priority = 0 })
    local build = server:get("/builds/" .. id).json
    assert.equal(3, build.priority)
    assert.equal("all are", build.policyReason)
    use { priority = "strict" }
    server:wait_for(function() return server:get("/builds/" .. id).json.priority == 0 end, 10, "the priority as asked")
  end)
end)

describe("an admission policy", function()
  local function limits(text)
    local file = shipped "limits"
    for from, to in pairs(text) do file = file:gsub(from, to) end
    save { limits = file, active = "return { admission = 'limits' }" }
  end

  it("takes everything while no limit is set, without asking the database", function()
    use { admission = "limits" }
    assert.same({ [202] = 20 }, (storm(20)))
  end)

  it("never lets more pass than its limit, however many come at once", function()
    limits { ["%-%- pending = 100"] = "pending = 10" }
    local statuses, last = storm(40)
    assert.same({ [202] = 10, [429] = 30 }, statuses)
    assert.equal("10", server:sql "select count(*) from build_queue")
    local refusal = json.decode(last[429]:match "\r\n\r\n(.*)")
    assert.equal("Too many builds waiting", refusal.title)
    assert.equal("A customer may have 10 builds waiting.", refusal.detail)
    assert.equal(60, refusal.retryAfter)
    assert.truthy(last[429]:lower():find "retry%-after: 60")
    assert.truthy(last[429]:find("application/problem+json", 1, true))
    assert.equal(202, server:post("/builds", builds.request { customerId = "other" }).status)
  end)

  it("is as strict when several servers are asked at once", function()
    limits { ["%-%- pending = 100"] = "pending = 10, today = 11" }
    local others = {}
    for n = 1, 2 do
      others[n] = Server.start {
        database = server.database,
        config = { BuildQueue = { MaxConcurrentBuilds = 2, PollIntervalSeconds = 1, MaxConnectionsPerPeer = 200 } },
        scripts = builds.scripts {
          ["policies/limits.lua"] = process.read(server.directory .. "/scripts/policies/limits.lua"),
          ["policies/active.lua"] = "return { admission = 'limits' }",
        },
      }
    end
    for _ = 1, 3 do
      server:sql "delete from build_queue"
      assert.same({ [202] = 10, [429] = 50 }, (storm(60, nil, nil, others)))
      assert.equal("10", server:sql "select count(*) from build_queue")
    end
    for _, other in ipairs(others) do other:stop() end
  end)

  it("is no bottleneck for a burst below the limit", function()
    limits { ["%-%- pending = 100"] = "pending = 1000" }
    assert.same({ [202] = 100 }, (storm(100)))
  end)

  it("counts a tier's quota over all customers, and says when there is more", function()
    limits { ["%-%- standard = { today = 500, month = 5000 }"] = "pro = { today = 3 }" }
    local statuses, last = storm(8)
    assert.same({ [202] = 3, [429] = 5 }, statuses)
    local seconds = tonumber(last[429]:lower():match "retry%-after: (%d+)")
    assert.truthy(seconds > 0 and seconds <= 86400, seconds)
    local other = server:post("/builds", builds.request { customerId = "other" })
    assert.equal(429, other.status)
    assert.equal("Daily quota used up", other.json.title)
  end)

  it("gives a repeated request its answer, whatever the quota says by now", function()
    limits { ["%-%- pending = 100"] = "pending = 1" }
    local headers = { ["Idempotency-Key"] = "quota-1" }
    local first = server:post("/builds", builds.request(), headers)
    assert.equal(202, first.status)
    assert.equal(429, server:post("/builds", builds.request()).status)
    local again = server:post("/builds", builds.request(), headers)
    assert.equal(202, again.status)
    assert.equal(first.json.jobId, again.json.jobId)
  end)

  it("gives it too when both are on their way at the same time", function()
    limits { ["%-%- pending = 100"] = "pending = 1, today = 99" }
    assert.same({ [202] = 20 }, (storm(20, nil, "Idempotency-Key: quota-2\r\n")))
    assert.equal("1", server:sql "select count(*) from build_queue")
  end)

  it("is told what builds of the pipeline need of the disk", function()
    save { mine = [[return { facts = { admission = { "disk" } }, admission = function(build, facts)
      return { action = build.metadata.ask and "refuse" or "accept",
        detail = ("%d of %d"):format(facts.disk.predictedMegabytes, facts.disk.freeMegabytes) }
    end }]], active = "return { admission = 'mine' }" }
    local function predicted(pipeline)
      local answer = server:post("/builds", builds.request { pipeline = pipeline, metadata = { ask = true } })
      assert.equal(429, answer.status)
      return tonumber(answer.json.detail:match "^(%d+) of %d+$")
    end
    assert.equal(0, predicted "large")
    assert.equal(200, server:post("/queue/resume", {}).status)
    for _, megabytes in ipairs { 3, 2, 5 } do
      builds.run(server, { pipeline = "large", metadata = { megabytes = megabytes } })
      server:wait_for(function() return predicted "large" == math.max(megabytes, 3) end, 10, "its size")
    end
    server:sql "update workspace_sizes set measured_at = now() - interval '25 hours'" -- a day without such large ones
    builds.run(server, { pipeline = "large", metadata = { megabytes = 1 } })
    server:wait_for(function() return predicted "large" == 2 end, 10, "a smaller size")
    assert.equal(0, predicted "gate") -- has never run
    assert.equal(200, server:post("/queue/pause", { reason = "to look at the order" }).status)
  end)

  it("may take a build with a lower priority, and says why", function()
    limits { ["%-%- running = 10"] = "running = 1" }
    server:sql [[insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,
      tier, architecture, cloud_provider, status) values ('c1', 'C', 'c@example.org', 'runs', 'x.json', 'pro',
      'linux-x64', 'aws', 'building')]]
    local id = submit("more", { priority = 2 })
    local build = server:get("/builds/" .. id).json
    assert.equal(0, build.priority)
    assert.equal("1 builds of this customer run already", build.policyReason)
  end)

  it("that fails accepts, and is counted", function()
    save { mine = "return { admission = function() error 'no' end }", active = "return { admission = 'mine' }" }
    submit "one"
    assert.truthy(failures "admission" >= 1)
  end)
end)
