-- Schedules: occurrences in any time zone, each once in the whole cluster or with a reason.
local json = require "dkjson"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"
local cron = require "cron"

local REQUEST <const> = [[{ customerId = "c1", customerName = "Customer", customerEmail = "c1@example.org",
  configurationName = "nightly", tier = "pro", architecture = "linux-x64", cloudProvider = "aws", pipeline = "quick",
  manifest = { version = "1.0", name = "spec" } }]]

-- scripts/policies/schedule.lua with entries "name = …, cron = …" of Lua text.
local function policy(...)
  local entries = {}
  for index, entry in ipairs { ... } do entries[index] = ("{ request = %s, %s }"):format(REQUEST, entry) end
  return { ["policies/schedule.lua"] = ("return { schedule = function() return { %s } end }")
    :format(table.concat(entries, ", ")) }
end

-- The virtual clock of every session to come: `interval` ahead of the real one.
local function shift_clock(server, interval)
  server:sql(("alter database %s set buildq.clock_offset = '%s'"):format(server.database, interval))
end

-- An offset that makes it `seconds` before 02:30 of 15 June 2040, UTC.
local function before_half_past(seconds)
  return ("%d seconds"):format(os.time { year = 2040, month = 6, day = 15, hour = 2, min = 30, sec = 0 }
    - os.time(os.date "!*t" --[[@as osdateparam]]) - seconds)
end

local function new_server(options)
  options.scripts = builds.scripts(options.scripts)
  return Server.new(options)
end

local function runs_of(server, name)
  return server:get(("/schedules/%s?runs=1000"):format(name)).json.runs
end

local function wait_for_runs(server, name, count)
  local runs
  server:wait_for(function()
    local answer = server:get(("/schedules/%s?runs=1000"):format(name))
    runs = answer.status == 200 and answer.json.runs or {}
    for _, run in ipairs(runs) do
      if run.outcome == "claimed" then return false end
    end
    return #runs >= count
  end, 40, function() return ("%d runs of %s; there are %s"):format(count, name, json.encode(runs)) end)
  return runs
end

describe("occurrences", function()
  local server

  setup(function() server = new_server {}:launch() end)
  teardown(function() if server then server:stop() end end)

  local function next_of(expression, zone, after, count)
    local fields = json.encode(assert(cron.parse(expression)))
    return server:sql(("select to_char(t at time zone 'UTC', 'YYYY-MM-DD HH24:MI') from " ..
      "buildq_occurrences('%s', '%s', '%s', null, %d) t"):format(fields, zone, after, count))
      :gsub("\n", ", "):gsub(", $", "")
  end

  -- Known transitions: what a person with a clock on the wall would expect.
  local TABLE <const> = {
    -- expression, zone, after, what comes (UTC)
    { "30 2 * * *", "Europe/Berlin", "2026-03-28T00:00Z", "2026-03-28 01:30, 2026-03-29 01:00, 2026-03-30 00:30" },
    { "30 2 * * *", "Europe/Berlin", "2026-10-24T00:00Z", "2026-10-24 00:30, 2026-10-25 00:30, 2026-10-26 01:30" },
    { "0,30 2 * * *", "Europe/Berlin", "2026-03-29T00:00Z", "2026-03-29 01:00, 2026-03-30 00:00, 2026-03-30 00:30" },
    { "0 3 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "2026-03-29 01:00, 2026-03-30 01:00" },
    { "0 * * * *", "Europe/Berlin", "2026-10-24T23:30Z", "2026-10-25 00:00, 2026-10-25 01:00, 2026-10-25 02:00" },
    { "*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15Z", "2026-03-29 00:30, 2026-03-29 01:00, 2026-03-29 01:30" },
    { "0 */2 * * *", "Europe/Berlin", "2026-03-28T22:30Z", "2026-03-28 23:00, 2026-03-29 01:00, 2026-03-29 02:00" },
    { "30 1 * * *", "America/New_York", "2026-10-31T12:00Z", "2026-11-01 05:30, 2026-11-02 06:30" },
    { "15 2 * * sun", "America/New_York", "2026-03-07T12:00Z", "2026-03-08 07:00, 2026-03-15 06:15" },
    { "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00Z", "2026-10-03 15:30, 2026-10-04 15:15" },
    { "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00Z", "2026-04-04 14:45, 2026-04-05 15:15" },
    { "30 2 * * *", "Asia/Tokyo", "2026-03-28T12:00Z", "2026-03-28 17:30, 2026-03-29 17:30" },
    { "0 12 30 12 *", "Pacific/Apia", "2011-01-03T00:00Z", "2011-12-30 10:00, 2012-12-29 22:00" },
    { "0 0 29 2 *", "UTC", "2096-03-01T00:00Z", "2104-02-29 00:00, 2108-02-29 00:00" },
    { "0 0 13 * fri", "UTC", "2026-02-01T00:00Z", "2026-02-06 00:00, 2026-02-13 00:00, 2026-02-20 00:00" },
    { "0 0 13 * *", "UTC", "2026-02-01T00:00Z", "2026-02-13 00:00, 2026-03-13 00:00" },
    { "0 0 */13 * fri", "UTC", "2026-02-01T00:00Z", "2026-02-27 00:00, 2026-03-27 00:00" },
    { "59 23 31 12 *", "UTC", "2026-12-31T23:59Z", "2027-12-31 23:59" },
  }
  for _, row in ipairs(TABLE) do
    local expression, zone, after, expected = table.unpack(row)
    it(("of %s in %s after %s"):format(expression, zone, after), function()
      local _, commas = expected:gsub(",", "")
      assert.equal(expected, (next_of(expression, zone, after, commas + 1)))
    end)
  end

  it("of every expression increase, match their fields and are never two of one local time", function()
    math.randomseed(20260329)
    for _ = 1, 40 do
      local minute, hour = math.random(0, 59), math.random(0, 4)
      local text = next_of(("%d %d * * *"):format(minute, hour), "Europe/Berlin",
        math.random() < 0.5 and "2026-03-25T00:00Z" or "2026-10-22T00:00Z", 7)
      local last, count = "", 0
      for moment in text:gmatch "[^,]+" do
        moment = moment:match "^%s*(.*)$"
        assert.is_true(moment > last, text)
        last, count = moment, count + 1
      end
      assert.equal(7, count)
    end
  end)
end)

describe("a cluster", function()
  it("runs each occurrence once, on one of its servers", function()
    local first = new_server { scripts = policy 'name = "half-past", cron = "30 2 * * *"' }
    shift_clock(first, before_half_past(12))
    first:launch()
    local second = new_server { database = first.database, scripts = first.options.scripts }:launch()
    first:wait_for(function()
      local known = first:get("/schedules").json.schedules[1]
      return known and known.nextAt == "2040-06-15T02:30:00.000000Z"
    end, 10, "the next occurrence")
    local runs = wait_for_runs(first, "half-past", 1)
    assert.equal(1, #runs)
    assert.equal("enqueued", runs[1].outcome)
    assert.equal("2040-06-15T02:30:00.000000Z", runs[1].occurrence)
    local build = builds.await(second, runs[1].buildId, "success")
    assert.equal("half-past", build.metadata.schedule)
    assert.equal("2040-06-15T02:30:00.000000Z", build.metadata.scheduledFor)
    assert.equal("1", first:sql "select count(*) from build_queue")
    assert.equal("2040-06-16T02:30:00.000000Z", second:get("/schedules").json.schedules[1].nextAt)
    second:stop()
    first:stop()
  end)

  it("loses nothing and doubles nothing when a server is killed between a claim and its build", function()
    local server = new_server { scripts = policy 'name = "half-past", cron = "30 2 * * *"' }
    shift_clock(server, before_half_past(8))
    server:launch()
    server:wait_for(function() return server:get("/schedules").json.schedules[1] end, 10)
    -- The build's row can't be written while somebody else has its table.
    local holder = process.spawn { "psql", "-XAtq", "-d", postgres.connection_string(server.database), "-c",
      "begin; lock table build_queue in share mode; select pg_sleep(60)" }
    server:wait_for(function() return server:sql "select outcome from schedule_runs" == "claimed" end, 30, "the claim")
    server:kill "sigkill"
    server.child:wait(10)
    holder:kill "sigkill"
    holder:wait(10)
    server:sql "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
    assert.equal("0", server:sql "select count(*) from build_queue")
    shift_clock(server, before_half_past(-120)) -- the claim is a minute old
    server:launch()
    local run = wait_for_runs(server, "half-past", 1)[1]
    assert.equal("enqueued", run.outcome)
    builds.await(server, run.buildId, "success")
    assert.equal("1", server:sql "select count(*) from build_queue")
    server:stop()
  end)

  it("finishes what a lost server had claimed, as the same build", function()
    local server = new_server { scripts = policy 'name = "yearly", cron = "@yearly"' }:launch()
    local id = builds.submit(server)
    builds.await(server, id, "success")
    -- One was claimed and not enqueued, of the other only the last word is missing.
    server:sql(([[insert into schedule_runs (name, occurrence, through, outcome, build_id, claimed_at) values
      ('yearly', '2020-01-01Z', '2020-01-01Z', 'claimed', '00000000-0000-4000-8000-000000000007',
       now() - interval '2 min'),
      ('yearly', '2019-01-01Z', '2019-01-01Z', 'claimed', '%s', now() - interval '2 min'),
      ('yearly', '2018-01-01Z', '2018-01-01Z', 'claimed', '%s', now())]]):format(id, id))
    server:wait_for(function()
      return server:sql "select string_agg(outcome, ' ' order by occurrence) from schedule_runs"
        == "claimed enqueued enqueued"
    end, 20)
    assert.equal("1", server:sql "select count(*) from build_queue where id = '00000000-0000-4000-8000-000000000007'")
    assert.equal("2", server:sql "select count(*) from build_queue")
    server:stop()
  end)
end)

describe("what was missed while no server ran", function()
  local server

  setup(function()
    server = new_server { scripts = policy('name = "skips", cron = "30 2 * * *", missed = "skip"',
      'name = "latest", cron = "30 2 * * *", missed = "latest"', 'name = "all", cron = "30 2 * * *", missed = "all"',
      'name = "often", cron = "* * * * *", missed = "latest"') }
    shift_clock(server, before_half_past(86000))
    server:launch()
    server:wait_for(function() return #server:get("/schedules").json.schedules == 4 end, 10)
    server:stop()
    shift_clock(server, before_half_past(-3 * 86400 - 600)) -- four occurrences later
    server:launch()
  end)
  teardown(function() if server then server:stop() end end)

  it("is skipped, with a reason that covers all", function()
    local run = wait_for_runs(server, "skips", 1)[1]
    assert.equal("skipped", run.outcome)
    assert.equal(4, run.occurrences)
    assert.equal("2040-06-15T02:30:00.000000Z", run.occurrence)
    assert.equal("2040-06-18T02:30:00.000000Z", run.through)
    assert.truthy(run.reason:find("no server", 1, true))
    assert.truthy(server:log():find("occurrences of a schedule don't run", 1, true))
  end)

  it("or its latest runs, the others have a reason", function()
    local runs = wait_for_runs(server, "latest", 2)
    assert.equal("2040-06-18T02:30:00.000000Z", runs[1].occurrence)
    assert.equal("enqueued", runs[1].outcome)
    assert.same({ "skipped", 3 }, { runs[2].outcome, runs[2].occurrences })
    assert.equal("2040-06-17T02:30:00.000000Z", runs[2].through)
  end)

  it("or all of it runs", function()
    local runs = wait_for_runs(server, "all", 4)
    local text = {}
    for index, run in ipairs(runs) do text[index] = run.occurrence:sub(9, 10) .. " " .. run.outcome end
    assert.equal("18 enqueued,17 enqueued,16 enqueued,15 enqueued", table.concat(text, ","))
    assert.equal("2040-06-19T02:30:00.000000Z", server:get("/schedules/all").json.nextAt)
  end)

  it("and every minute of it is accounted for", function()
    wait_for_runs(server, "often", 2)
    -- Without a gap: from the first minute after the first start to the last row.
    assert.equal("t", server:sql [[
      select sum(occurrences) = 1 + extract(epoch from max(through) - min(occurrence)) / 60
        and min(occurrence) < '2040-06-14 03:00Z' and max(through) > '2040-06-18 02:30Z'
      from schedule_runs where name = 'often']])
  end)
end)

describe("a schedule", function()
  local server

  setup(function()
    server = new_server { scripts = policy('name = "nightly", cron = "30 2 * * mon-fri", zone = "Europe/Berlin"',
      'name = "every", cron = "* * * * *"') }:launch()
    server:wait_for(function() return #server:get("/schedules").json.schedules == 2 end, 10)
  end)
  teardown(function() if server then server:stop() end end)

  it("is listed with what it says", function()
    local list = server:get("/schedules").json.schedules
    assert.equal("every", list[1].name)
    assert.same({ "nightly", "30 2 * * mon-fri", "Europe/Berlin", "skip", false },
      { list[2].name, list[2].cron, list[2].zone, list[2].missed, list[2].paused })
    assert.equal(5, #server:get("/schedules/nightly?next=5").json.next)
    assert.equal(404, server:get("/schedules/none").status)
    assert.equal(400, server:get("/schedules/nightly?next=5000").status)
  end)

  it("runs by hand, also while it is paused; the pause survives a restart and has its reason", function()
    assert.equal(400, server:post("/schedules/nightly/pause").status)
    assert.equal("no need", server:post("/schedules/nightly/pause", { reason = "no need" }).json.pauseReason)
    local answer = server:post("/schedules/nightly/run")
    assert.equal(202, answer.status)
    assert.equal("/builds/" .. answer.json.jobId, answer.headers.location)
    builds.await(server, answer.json.jobId, "success")
    assert.equal(404, server:post("/schedules/none/run").status)
    local run = runs_of(server, "nightly")[1]
    assert.same({ true, "enqueued", answer.json.jobId }, { run.manual, run.outcome, run.buildId })
    server:stop()
    server:launch()
    assert.equal("no need", server:get("/schedules/nightly").json.pauseReason)
    assert.is_false(server:post("/schedules/nightly/resume").json.paused)
    assert.equal(404, server:post("/schedules/none/resume").status)
  end)

  it("that is paused records what it leaves out", function()
    server:post("/schedules/every/pause", { reason = "holiday" })
    server:sql "update schedules set next_at = date_trunc('minute', now()) - interval '2 minutes' where name = 'every'"
    server:wait_for(function()
      local run = runs_of(server, "every")[1]
      -- The fourth is that of a minute that began meanwhile.
      return run and run.reason == "the schedule is paused: holiday" and (run.occurrences == 3 or run.occurrences == 4)
    end, 20)
    server:sql "update schedules set next_at = date_trunc('minute', now()) - interval '9 minutes' where name = 'every'"
    server:post("/schedules/every/resume")
    for _, run in ipairs(runs_of(server, "every")) do assert.equal("skipped", run.outcome) end
  end)

  it("is looked after by commands", function()
    local function command(...) return server:command { "schedule", "--server", "http://" .. server.address, ... } end
    local list = command "list"
    assert.equal(0, list.code, list.errors)
    assert.truthy(list.output:find("nightly  30 2 * * mon-fri  Europe/Berlin", 1, true), list.output)
    local coming = command("next", "nightly", "--count", "3")
    assert.equal(0, coming.code, coming.errors)
    assert.equal(3, select(2, coming.output:gsub("%d%d%d%d%-%d%d%-%d%dT0[01]:30:00Z\n", "")))
    assert.equal(2, command("pause", "nightly").code)
    assert.equal(0, command("pause", "nightly", "--reason", "by hand").code)
    assert.truthy(command("list").output:find("by hand", 1, true))
    assert.equal(0, command("resume", "nightly").code)
    local run = command("run", "nightly", "--json")
    assert.equal(0, run.code, run.errors)
    local id = json.decode(run.output).jobId
    assert.truthy(command("runs", "nightly").output:find(id, 1, true))
    assert.equal(4, command("next", "none").code)
    local soonest = command "next"
    assert.equal(0, soonest.code, soonest.errors)
    assert.truthy(soonest.output:find("Z  every\n.*Z  nightly\n"), soonest.output)
    assert.equal(2, command("runs").code)
    assert.equal(2, command().code)
  end)
end)

describe("a thousand schedules", function()
  it("are taken over and looked after", function()
    local server = new_server { scripts = { ["policies/schedule.lua"] = ([[
      local list = {}
      for i = 1, 1001 do
        list[i] = { name = "s" .. i, cron = i %% 60 .. " " .. i %% 24 .. " " .. 1 + i %% 28 .. " * *",
          zone = i %% 2 == 0 and "Europe/Berlin" or "America/New_York", request = %s }
      end
      return { schedule = function() return list end }]]):format(REQUEST) } }:launch()
    server:wait_for(function() return #server:get("/schedules").json.schedules == 1000 end, 90)
    assert.truthy(server:log():find("there are more than 1000 schedules", 1, true))
    assert.equal(1000, tonumber(server:sql "select count(*) from schedules where next_at > now()"))
    server:write("scripts", policy 'name = "one", cron = "@daily"')
    server:wait_for(function() return #server:get("/schedules").json.schedules == 1 end, 30)
    server:stop()
  end)
end)

describe("the schedule policy", function()
  local server

  before_each(function()
    server = new_server { scripts = policy 'name = "one", cron = "@daily"' }:launch()
    server:wait_for(function() return #server:get("/schedules").json.schedules == 1 end, 10)
  end)
  after_each(function() server:stop() end)

  local function names()
    local list = {}
    for index, entry in ipairs(server:get("/schedules").json.schedules) do list[index] = entry.name .. entry.cron end
    return table.concat(list, " ")
  end

  it("takes effect when its file changes; a removed schedule keeps its pause", function()
    server:post("/schedules/one/pause", { reason = "kept" })
    server:write("scripts", policy('name = "two", cron = "@hourly"'))
    server:wait_for(function() return names() == "two@hourly" end, 10)
    server:write("scripts", policy('name = "one", cron = "@weekly"', 'name = "two", cron = "@hourly"'))
    server:wait_for(function() return names() == "one@weekly two@hourly" end, 10)
    assert.equal("kept", server:get("/schedules/one").json.pauseReason)
  end)

  it("accounts for what was due under the old expression", function()
    server:post("/schedules/one/pause", { reason = "so that it is not taken" })
    server:sql "update schedules set next_at = date_trunc('day', now()), paused = false where name = 'one'"
    server:write("scripts", policy 'name = "one", cron = "@weekly"')
    server:wait_for(function() return names() == "one@weekly" end, 10)
    assert.equal("1", server:sql "select sum(occurrences) from schedule_runs where name = 'one'")
  end)

  it("uses what is right of it and says what isn't", function()
    server:write("scripts", policy('name = "one", cron = "61 * * * *"', 'name = "two", cron = "@daily"',
      'name = "three", cron = "@daily", zone = "Europe/Nowhere"', 'name = "two", cron = "@daily"'))
    server:wait_for(function() return names() == "two@daily" end, 10)
    assert.same({ "one", "two", "three" }, {
      server:get("/schedules").json.faults[1].name, server:get("/schedules").json.faults[2].name,
      server:get("/schedules").json.faults[3].name })
    local listed = server:command { "schedule", "--server", "http://" .. server.address, "list" }
    assert.truthy(listed.errors:find("not used: three: the time zone \"Europe/Nowhere\" is not known", 1, true),
      listed.errors)
    local log = server:log()
    assert.truthy(log:find("a minute is 0 to 59", 1, true))
    assert.truthy(log:find("Europe/Nowhere", 1, true))
    assert.truthy(log:find("there are two schedules of this name", 1, true))
  end)

  it("says why a build was refused", function()
    server:write("scripts", { ["policies/schedule.lua"] = [[return { schedule = function()
      return { { name = "bad", cron = "@daily", request = { customerId = "c" } } }
    end }]] })
    server:wait_for(function() return names() == "bad@daily" end, 10)
    assert.equal(400, server:post("/schedules/bad/run").status)
    local run = runs_of(server, "bad")[1]
    assert.equal("refused", run.outcome)
    assert.truthy(run.reason:find("customerEmail", 1, true) or run.reason:find("required", 1, true), run.reason)
  end)

  it("that fails leaves the schedules as they were", function()
    server:write("scripts", { ["policies/schedule.lua"] = 'return { schedule = function() error "broken" end }' })
    server:wait_for(function() return server:log():find("the schedule policy failed", 1, true) end, 10)
    assert.equal("one@daily", names())
  end)
end)
