-- Rehearsals: recorded builds under two sets of policies. Figures are held to a simulation of the spec's own, which
-- looks through plain lists.
local json = require "dkjson"
local process = require "spec.support.process"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

local BUILDS <const>, SLOTS <const> = 3000, 6
local BEGIN_US <const> = 1767225600 * 1000000 -- 2026-01-01
local TIERS <const> = { "free", "pro", "enterprise" }

-- What is in force, and what is tried. The second refuses, too.
local FLAT <const> = [[return { retry = function(failure)
  return { retry = failure.retryCount < 1, after = 40 }
end }]]
local ACTIVE <const> = [[return { priority = "strict", retry = "flat", estimate = "price" }]]
local PRICE <const> = [[return { estimate = function(_, history)
  return { cost = history.mean / 3600, currency = "EUR" }
end }]]
local TRIED <const> = [[return {
  facts = { admission = { "customer" } },
  priority = function(build) return { key = build.enqueuedAt - build.priority * 120000000 } end,
  retry = function(failure)
    return { retry = failure.retryCount < 3 and failure.kind == "infrastructure", after = 7 }
  end,
  admission = function(_, facts)
    if facts.customer.pending > 3 then return { action = "refuse", status = 429, title = "too many" } end
    return { action = "accept" }
  end,
}]]

-- One build of a customer at a time.
local QUIET <const> = [[return {
  facts = { choose = { "running" } },
  choose = function(candidates, facts)
    local busy, ids = {}, {}
    for _, build in ipairs(facts.running) do busy[build.customerId] = true end
    for _, build in ipairs(candidates) do
      if not busy[build.customerId] then
        busy[build.customerId] = true
        ids[#ids + 1] = build.id
      end
    end
    return ids
  end,
}]]

local function strict_key(build) return (3 - build.priority << 58) + build.at end
local function flat_retry(_, count) return count < 1 and 40 end
local function tried_key(build) return build.at - build.priority * 120000000 end
local function tried_retry(kind, count) return count < 3 and kind == "infrastructure" and 7 end
local function tried_admission(pending) return pending <= 3 end

-- A busy day of builds: some fail once, some for good.
local function make_history()
  math.randomseed(4711)
  local all, at = {}, BEGIN_US
  for i = 1, BUILDS do
    at = at + math.random(1, 22 * 1000000)
    local customer = math.random(1, 5) + (math.random() < 0.5 and 0 or math.random(0, 7))
    local build = { id = ("%08x-0000-7000-8000-000000000001"):format(i), at = at, customer = "c" .. customer,
      tier = TIERS[customer % 3 + 1], priority = math.random(0, 3), attempts = {} }
    local chance = math.random()
    local function attempt(outcome, kind)
      build.attempts[#build.attempts + 1] = { us = math.random(1, 110 * 1000000), outcome = outcome, kind = kind }
    end
    if chance < 0.08 then attempt("failed", "infrastructure") end
    if chance < 0.04 then attempt("failed", "step") elseif chance < 0.06 then attempt("failed", "infrastructure")
    else attempt "success" end
    all[i] = build
  end
  return all
end

local COLUMNS <const> = "customer_id, customer_name, customer_email, configuration_name, manifest_path, tier, "
  .. "architecture, cloud_provider"

-- As the queue has them; triggers would write the present into the history.
local function insert_history(server, all)
  local rows, events, attempts = {}, {}, {}
  local function time(us) return ("to_timestamp(%d / 1000000) + interval '%d us'"):format(us // 1000000 * 1000000,
    us % 1000000) end
  for i, build in ipairs(all) do
    local last = build.attempts[#build.attempts]
    rows[i] = ("('%s', '%s', 'Customer', 'secret@example.org', 'main', 'm.json', '%s', 'x64', 'aws', '%s', %d, %s)")
      :format(build.id, build.customer, build.tier, last.outcome, build.priority, time(build.at))
    events[#events + 1] = ("('%s', 1, %s, 'queued', 0, 0)"):format(build.id, time(build.at))
    local started = build.at + 1000000
    for n, attempt in ipairs(build.attempts) do
      events[#events + 1] = ("('%s', %d, %s, 'started', %d, 0)"):format(build.id, n + 1, time(started), n)
      attempts[#attempts + 1] = ("('%s', %d, gen_random_uuid(), %s, %s, '%s', %s)"):format(build.id, n, time(started),
        time(started + attempt.us), attempt.outcome, attempt.kind and ("'%s'"):format(attempt.kind) or "null")
      started = started + attempt.us
    end
  end
  local path = server.directory .. "/history.sql"
  process.write(path, table.concat({
    "alter table build_queue disable trigger user;",
    ("insert into build_queue (id, %s, status, priority, enqueued_at) values %s;"):format(COLUMNS,
      table.concat(rows, ",\n")),
    "alter table build_queue enable trigger user;",
    "insert into build_events (build_id, seq, at, type, attempt, round) values " .. table.concat(events, ",\n") .. ";",
    "insert into build_attempts (build_id, attempt, node_id, started_at, ended_at, outcome, error_kind) values "
      .. table.concat(attempts, ",\n") .. ";",
    ([[insert into nodes (id, name, url, version, slots, lease_seconds, state, started_at, ended_at) values
      (gen_random_uuid(), 'a', 'u', '1', %d, 30, 'live', '2025-12-01Z', null),
      (gen_random_uuid(), 'b', 'u', '1', 2, 30, 'stopped', '2025-12-01Z', '2026-01-01T01:00Z'),
      (gen_random_uuid(), 'c', 'u', '1', 2, 30, 'live', '2026-01-01T02:00Z', null),
      (gen_random_uuid(), 'd', 'u', '1', 50, 30, 'stopped', '2025-11-01Z', '2025-11-02Z');]]):format(SLOTS - 2),
  }, "\n"))
  server:sql(process.read(path))
end

-- The plain simulation: waits by build (nil when refused), and counts. `may_start(build, running)` nil: all may.
local function simulate(all, key_of, retry_of, accepts, may_start)
  local coming, pending, running, next_build = all, {}, {}, 1
  local result = { waits = {}, retries = 0, attempts = 0, success = 0, failed = 0, refused = 0, busy = 0 }
  local function leave(run)
    local attempt = run.attempt
    result.busy = result.busy + attempt.us
    if attempt.outcome == "success" then result.success = result.success + 1 return end
    local after = retry_of(attempt.kind, run.count)
    if not after then result.failed = result.failed + 1 return end
    result.retries = result.retries + 1
    pending[#pending + 1] = { build = run.build, key = run.key, due = run.ends + after * 1000000, used = run.used,
      count = run.count + 1 }
  end
  local function come(build)
    local waiting = 0
    for _, p in ipairs(pending) do if p.build.customer == build.customer then waiting = waiting + 1 end end
    if accepts and not accepts(waiting) then result.refused = result.refused + 1 return end
    pending[#pending + 1] = { build = build, key = key_of(build), due = build.at, used = 0, count = 0 }
  end
  local function start(p, now)
    result.waits[p.build] = result.waits[p.build] or now - p.build.at
    result.attempts = result.attempts + 1
    local used = p.used + 1
    local attempt = p.build.attempts[math.min(used, #p.build.attempts)]
    running[#running + 1] = { build = p.build, key = p.key, ends = now + attempt.us, attempt = attempt, used = used,
      count = p.count }
  end
  local function smallest(list, value)
    local best
    for i, entry in ipairs(list) do
      local v = value(entry)
      if v and (not best or v < value(list[best])) then best = i end
    end
    return best
  end
  local last = 0
  while next_build <= #coming or #pending > 0 or #running > 0 do
    local ending = smallest(running, function(r) return r.ends end)
    local due = #running < SLOTS and smallest(pending, function(p) return p.due > last and p.due or nil end)
    local now = math.min(coming[next_build] and coming[next_build].at or math.maxinteger,
      ending and running[ending].ends or math.maxinteger, due and pending[due].due or math.maxinteger)
    -- What is due and may not start yet waits for something to happen.
    last = now
    if ending and running[ending].ends == now then leave(table.remove(running, ending)) end
    if coming[next_build] and coming[next_build].at == now then
      come(coming[next_build])
      next_build = next_build + 1
    end
    while #running < SLOTS do
      local first = smallest(pending, function(p)
        return p.due <= now and (not may_start or may_start(p.build, running)) and p.key or nil
      end)
      if not first then break end
      start(table.remove(pending, first), now)
    end
  end
  return result
end

local function figures_of(all, waits, keep)
  local list, sum = {}, 0
  for _, build in ipairs(all) do
    if waits[build] and keep(build) then
      list[#list + 1] = waits[build]
      sum = sum + waits[build]
    end
  end
  table.sort(list)
  local function share(percent) return list[math.ceil(#list * percent / 100)] / 1e6 end
  return { started = #list, p50 = share(50), p95 = share(95), p99 = share(99), longest = list[#list] / 1e6,
    mean = sum / #list / 1e6 }
end

local function assert_close(expected, actual, what)
  for name, value in pairs(expected) do
    local given = actual[name]
    if not given or math.abs(given - value) > 0.0011 then
      error(("%s, %s: %s, not %s"):format(what, name, tostring(given), value), 2)
    end
  end
end

local function assert_side(all, simulated, figures, side)
  assert_close(figures_of(all, simulated.waits, function() return true end), figures[side].wait, side)
  for _, tier in ipairs(figures.tiers) do
    assert_close(figures_of(all, simulated.waits, function(b) return b.tier == tier.tier end), tier[side],
      side .. " " .. tier.tier)
  end
  for _, customer in ipairs(figures.customers) do
    assert_close(figures_of(all, simulated.waits, function(b) return b.customer == customer.customerId end),
      customer[side], side .. " " .. customer.customerId)
  end
  assert_close({ retries = simulated.retries, attempts = simulated.attempts, success = simulated.success,
    failed = simulated.failed, refused = simulated.refused, busySeconds = simulated.busy / 1e6 }, figures[side], side)
  assert.is_true(math.abs(simulated.busy / 3.6e9 - figures[side].cost.EUR) < 0.006)
end

local SINCE <const> = "2025-12-15T00:00:00Z"

describe("buildq rehearse", function()
  local server, all, policy

  local function rehearse(arguments, options)
    return server:command({ "rehearse", table.unpack(arguments) }, options)
  end

  --- Writes one beside the server's; returns its path.
  local function file(name, text)
    local path = ("%s/%s"):format(server.directory, name)
    process.write(path, text)
    return path
  end

  setup(function()
    server = Server.new { scripts = { ["policies/active.lua"] = ACTIVE, ["policies/flat.lua"] = FLAT,
      ["policies/price.lua"] = PRICE } }
    local migrated = server:command { "migrate" }
    assert.equal(0, migrated.code, migrated.errors)
    all = make_history()
    insert_history(server, all)
    policy = file("tried.lua", TRIED)
  end)

  it("gives the figures of both sets of policies, as a plain simulation has them", function()
    local answer = rehearse { policy, "--since", SINCE, "--json" }
    assert.equal(0, answer.code, answer.errors)
    local figures = json.decode(answer.output)
    assert.equal(BUILDS, figures.builds)
    assert.equal(SLOTS, figures.slots) -- the most that the nodes had at once since then
    assert.same({ priority = "strict", retry = "flat", admission = "built-in", choose = "built-in",
      schedule = "built-in", estimate = "price" }, figures.policies.old)
    assert.same({ priority = policy, retry = policy, admission = policy, choose = "built-in", schedule = "built-in",
      estimate = "price" }, figures.policies.new)
    local old, new = simulate(all, strict_key, flat_retry), simulate(all, tried_key, tried_retry, tried_admission)
    assert.is_true(new.refused > 0 and old.failed > 0 and old.retries > 0)
    assert_side(all, old, figures, "old")
    assert_side(all, new, figures, "new")
    local earlier, later = 0, 0
    for build, us in pairs(old.waits) do
      local other = new.waits[build]
      if other and other < us then earlier = earlier + 1 elseif other and other > us then later = later + 1 end
    end
    assert.same({ earlier, later }, { figures.earlier, figures.later })
    assert_close({ p50 = 1, longest = 1, started = BUILDS }, figures.recorded, "recorded")
    assert.same({}, figures.new.fallbacks)
  end)

  it("lets a policy choose", function()
    local path = file("quiet.lua", QUIET)
    local answer = rehearse { path, "--since", SINCE, "--json" }
    assert.equal(0, answer.code, answer.errors)
    local figures = json.decode(answer.output)
    assert.same({}, figures.new.fallbacks)
    assert_side(all, simulate(all, strict_key, flat_retry, nil, function(build, running)
      for _, r in ipairs(running) do if r.build.customer == build.customer then return false end end
      return true
    end), figures, "new")
    local never = file("never.lua", [[return { choose = function(candidates)
      local ids = {}
      for _, build in ipairs(candidates) do if build.customerId ~= "c7" then ids[#ids + 1] = build.id end end
      return ids
    end }]])
    figures = json.decode(rehearse({ never, "--since", SINCE, "--json" }).output)
    assert.equal(server:sql "select count(*) from build_queue where customer_id = 'c7'", tostring(figures.new.pending))
  end)

  it("says the same each time, from the database and from its export", function()
    local path = server.directory .. "/export.jsonl"
    local exported = rehearse { "--export", path, "--since", SINCE }
    assert.equal(0, exported.code, exported.errors)
    assert.equal(("%d builds exported\n"):format(BUILDS), exported.errors)
    local first = rehearse { policy, "--since", SINCE, "--json" }.output
    assert.equal(first, rehearse({ policy, "--from", path, "--json" }).output)
    assert.equal(first, rehearse({ policy, "--from", path, "--json" }).output)
    assert.is_nil(process.read(path):find("secret@", 1, true))
    local again = rehearse { "--export", path }
    assert.equal(1, again.code)
    assert.matches("export.jsonl: File exists", again.errors)
  end)

  it("exports without saying who it was", function()
    local path = server.directory .. "/anonymous.jsonl"
    assert.equal(0, rehearse({ "--export", path, "--anonymous", "--since", SINCE }).code)
    local text = process.read(path)
    assert.is_nil(text:find('"customerId":"c%d'))
    assert.is_nil(text:find('"Customer"', 1, true))
    local figures = json.decode(rehearse({ policy, "--from", path, "--json" }).output)
    local plain = json.decode(rehearse({ policy, "--since", SINCE, "--json" }).output)
    assert.equal(#plain.customers, #figures.customers)
    assert.same(plain.new, figures.new)
  end)

  it("changes nothing", function()
    local function state()
      return server:sql [[select md5(string_agg(b::text || b.xmin::text, '' order by id)) from build_queue b;
        select count(*), max(xmin::text) from build_events; select count(*) from build_attempts;
        select count(*) from outbox]]
    end
    local before = state()
    assert.equal(0, rehearse({ policy, "--since", SINCE }).code)
    assert.equal(before, state())
  end)

  it("takes builds since a time, and as many at a time as asked", function()
    local since = "2026-01-01T04:00:00Z"
    local count = tonumber(server:sql(("select count(*) from build_queue where enqueued_at >= '%s'"):format(since)))
    local figures = json.decode(rehearse({ policy, "--since", since, "--concurrency", "1000", "--json" }).output)
    assert.is_true(count > 0 and count < BUILDS)
    assert.equal(count, figures.builds)
    assert.equal(1000, figures.slots)
    assert.equal(0, figures.old.wait.longest)
    local nothing = rehearse { policy, "--since", "2030-01-01T00:00:00Z" }
    assert.equal(1, nothing.code)
    assert.matches("nothing to rehearse", nothing.errors)
  end)

  it("prints tables: old and new side by side, who gains, who loses", function()
    local answer = rehearse { policy, "--since", SINCE }
    assert.equal(0, answer.code, answer.errors)
    for _, pattern in ipairs { "^3000 builds from 2026%-01%-01T00:00:", "6 at a time", "priority: strict → ",
      "WAITING +BUILDS +P50 OLD +NEW +P95 OLD +NEW", "\nall +3000 ", "\ntier free ", "\ncustomer c1 ",
      "\nrefused +0 +%d",
      "\nretries +%d+ +%d+", "\ncost +[%d.]+ EUR +[%d.]+ EUR", "builds start earlier, %d+ later",
      "loses c%d+: %+" } do
      assert.matches(pattern, answer.output)
    end
    local favour = file("favour.lua", [[return { priority = function(build)
      if build.customerId == "c11" then return { priority = 3, key = 1 } end
    end }]])
    assert.matches("\n  gains c11: %-[%d.]+s on average, %d+ earlier, %d+ later\n",
      rehearse({ favour, "--since", SINCE }).output)
  end)

  it("names file and line of a policy that can't be loaded, and what it lacks", function()
    local broken = rehearse { file("broken.lua", "return {\n priority = function( end }") }
    assert.equal(1, broken.code)
    assert.matches("scripts/policies/broken.lua:2:", broken.errors)
    local empty = rehearse { file("empty.lua", "return { prioritty = function() end }") }
    assert.equal(1, empty.code)
    assert.matches("scripts/policies/empty.lua: has no function of a hook's name", empty.errors)
    assert.matches("NAME.lua", rehearse({ file("policy.txt", TRIED) }).errors)
    assert.equal(2, rehearse({}).code)
  end)

  it("counts how often a policy failed and the built-in rule decided", function()
    local path = file("fails.lua", [[return { priority = function(build)
      if build.priority == 3 then error "no three" end
      return {}
    end }]])
    local figures = json.decode(rehearse({ path, "--since", SINCE, "--json" }).output)
    local threes = 0
    for _, build in ipairs(all) do if build.priority == 3 then threes = threes + 1 end end
    assert.equal(threes, figures.new.fallbacks.priority.count)
    assert.matches("scripts/policies/fails.lua:2: no three", figures.new.fallbacks.priority.first)
    assert.same(figures.old.wait, figures.new.wait)
    assert.matches("The new policy for priority failed %d+ times",
      rehearse({ path, "--since", SINCE }).output)
  end)

  local function us(seconds) return BEGIN_US + seconds * 1000000 end

  -- A line of a history: build n comes at second n unless `fields` say otherwise.
  local function line(n, fields)
    local build = { id = ("%08x-0000-7000-8000-000000000001"):format(n), enqueuedAt = us(n), customerId = "c",
      tier = "t", pipeline = "p", priority = 1, status = "success", seconds = 100 }
    for name, value in pairs(fields) do build[name] = value end
    return json.encode(build)
  end

  it("gives fair queueing its tags", function()
    local lines = {}
    for n = 1, 10 do lines[n] = line(n, { customerId = "many" }) end
    lines[11] = line(11, { customerId = "one" })
    local path = file("fair.jsonl", table.concat(lines, "\n"))
    local figures = json.decode(rehearse({ "scripts/policies/fair.lua", "--from", path, "--concurrency", "1",
      "--json" }).output)
    assert.equal("one", figures.customers[2].customerId)
    assert.equal(990, figures.customers[2].old.longest) -- behind all ten
    assert.equal(190, figures.customers[2].new.longest) -- behind the one that runs and the one whose turn it is
    assert.same({}, figures.new.fallbacks)
  end)

  it("counts quotas by the day and the month of the simulated time", function()
    local day <const> = 86400
    local path = file("usage.jsonl", table.concat({
      line(1, { customerId = "a" }), line(2, { customerId = "a" }), line(3, { customerId = "a" }),
      line(4, { customerId = "a" }),                            -- refused: three a day
      line(5, { customerId = "a", enqueuedAt = us(day) }), line(6, { customerId = "a", enqueuedAt = us(day + 1) }),
      line(7, { customerId = "b", enqueuedAt = us(day + 2) }),  -- refused: the tier has had its five
      line(8, { customerId = "b", enqueuedAt = us(30 * day) }), -- refused: still January
      line(9, { customerId = "b", enqueuedAt = us(31 * day) }),
      line(10, { customerId = "b", tier = "other", enqueuedAt = us(2 * day) }),
    }, "\n"))
    local policy_file = file("quota.lua", [[return {
      facts = { admission = { "customerUsage", "tierUsage" } },
      admission = function(build, facts)
        if facts.customerUsage.today >= 3 or facts.tierUsage.month >= 5 then
          return { action = "refuse", detail = "quota" }
        end
        if build.tier == "other" then return { action = "lower", priority = 0 } end
        return { action = "accept" }
      end,
    }]])
    local figures = json.decode(rehearse({ policy_file, "--from", path, "--json" }).output)
    assert.same({ refused = 3, otherPriority = 1, a = 5, b = 2 }, { refused = figures.new.refused,
      otherPriority = figures.new.otherPriority, a = figures.customers[1].new.started,
      b = figures.customers[2].new.started })
    assert.same({}, figures.new.fallbacks)
  end)

  it("plays a cancelled build, a manual retry, a lost node and what goes on still as they were", function()
    local path = file("odd.jsonl", table.concat({
      line(1, { rounds = { { attempts = { { seconds = 100, outcome = "success" } } } } }),
      -- Cancelled while it waits for the only slot.
      line(2, { status = "cancelled", rounds = { { cancelledAt = us(50), attempts = json.decode "[]" } } }),
      -- Failed, by hand again: 500 s later it succeeds.
      line(3, { rounds = { { attempts = { { seconds = 10, outcome = "failed", kind = "timeout" } } },
        { at = us(600), attempts = { { seconds = 20, outcome = "success" } } } } }),
      -- Its node was lost: it goes on at once, uncharged.
      line(4, { rounds = { { attempts = {
        { seconds = 5, outcome = "lost" }, { seconds = 30, outcome = "success" } } } } }),
      -- Runs still: it takes as long as the pipeline's middle, 30 s.
      line(5, { status = "building", rounds = { { attempts = { { seconds = nil } } } } }),
      -- Of the old service.
      line(6, { status = "failed", seconds = 7, message = "exit code 2" }),
    }, "\n"))
    local still = file("never.lua", "return { retry = function() return { retry = false } end }")
    local figures = json.decode(rehearse({ still, "--from", path, "--concurrency", "1", "--json" }).output)
    assert.same({ success = 4, failed = 1, cancelled = 1, attempts = 7, retries = 0, busySeconds = 202,
        spanSeconds = 619 },
      { success = figures.new.success, failed = figures.new.failed, cancelled = figures.new.cancelled,
        attempts = figures.new.attempts, retries = figures.new.retries, busySeconds = figures.new.busySeconds,
        spanSeconds = figures.new.spanSeconds })
    -- 1 at once; 3 after it; 4; 5; 6; 3 again at once
    assert.equal(6, figures.new.wait.started)
    assert.equal(170, figures.new.wait.longest)
    local bad = file("bad.jsonl", '{"format":"buildq history 1"}\n{"id":"x"}\n')
    assert.matches("bad.jsonl:2: a build without an id", rehearse({ still, "--from", bad }).errors)
  end)
end)

describe("buildq rehearse on what a server did", function()
  local FLAKY <const> = [[return { run = function(build)
    build:step("Only", function()
      if build.attempt < 3 then build:fail "connection reset by peer" end
      build:log "good"
    end)
  end }]]
  local FINAL <const> = [[return { run = function(build)
    build:step("Only", function() build:fail("never", { retry = false }) end)
  end }]]

  it("sees attempts, failures, cancelled builds and manual retries as they were", function()
    local server = Server.start {
      config = { BuildQueue = { MaxConcurrentBuilds = 1, MaxRetryAttempts = 2 } },
      scripts = builds.scripts { ["pipelines/flaky.lua"] = FLAKY, ["pipelines/final.lua"] = FINAL,
        ["policies/active.lua"] = 'return { retry = "soon" }',
        ["policies/soon.lua"] = [[return { retry = function(failure)
          return { retry = failure.retryable and failure.retryCount < failure.maxRetries, after = 0 }
        end }]] },
    }
    builds.run(server)
    builds.run(server, { pipeline = "flaky" })
    local final = builds.run(server, { pipeline = "final" }, "failed").id
    local gate = builds.submit(server, { pipeline = "gate" })
    builds.await(server, gate, "building")
    local waiting = builds.submit(server)
    assert.equal("cancelled", server:post(("/builds/%s/cancel"):format(waiting)).json.status)
    builds.open_gate(server, gate)
    builds.await(server, gate, "success")
    assert.equal(202, server:post(("/builds/%s/retry"):format(final)).status)
    server:wait_for(function()
      local build = server:get("/builds/" .. final).json
      return build.attempt == 2 and build.status == "failed"
    end, 20, "the second round")

    local policy = server.directory .. "/more.lua"
    process.write(policy, [[return { retry = function(failure)
      if failure.message:find "connection reset" and failure.kind == "step" and failure.step == "Only" then
        return { retry = failure.retryCount < 1, after = 1 }
      end
      return { retry = not failure.retryable and failure.retryCount < 1, after = 1 }
    end }]])
    local answer = server:command { "rehearse", policy, "--json" }
    assert.equal(0, answer.code, answer.errors)
    local figures = json.decode(answer.output)
    assert.equal(1, figures.slots)
    local function counts(side)
      return { success = side.success, failed = side.failed, cancelled = side.cancelled, attempts = side.attempts,
        retries = side.retries, started = side.wait.started }
    end
    -- quick, flaky (twice again), final (both rounds), gate; the one that was cancelled never started.
    assert.same({ success = 3, failed = 1, cancelled = 1, attempts = 7, retries = 2, started = 5 }, counts(figures.old))
    -- flaky is given up after its first retry, final is tried once more in each round.
    assert.same({ success = 2, failed = 2, cancelled = 1, attempts = 8, retries = 3, started = 5 }, counts(figures.new))
    assert.same({}, figures.new.fallbacks)
    local told = server:rows "select sum(extract(epoch from ended_at - started_at)) as busy from build_attempts"
    assert.is_true(math.abs(figures.old.busySeconds - told[1].busy) < 0.002)

    -- What is activated for the cluster is what is in force, whatever the disk says meanwhile.
    local hash = server:get("/readyz").json.generation
    local function generations(...)
      local done = server:command { "generations", "--server", "http://" .. server.address, ... }
      assert.equal(0, done.code, done.errors)
    end
    generations("activate", hash, "--reason", "keep")
    server:write("scripts", { ["policies/active.lua"] = 'return { retry = "configured", priority = "aging" }' })
    local kept = json.decode(server:command({ "rehearse", policy, "--json" }).output)
    assert.same(counts(figures.old), counts(kept.old))
    assert.equal("soon", kept.policies.old.retry)
    generations("release", "--reason", "done")
    kept = json.decode(server:command({ "rehearse", policy, "--json" }).output)
    assert.equal("aging", kept.policies.old.priority)
    server:stop()
  end)
end)
