-- The old service's table, taken over in place by a start of the server; and its programs, which go on.
local uv = require "luv"
local json = require "dkjson"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

-- The table as the old service makes it: the first migration is that and nothing else.
local OLD_TABLE <const> = process.read "sql/migrations/0001_build_queue.sql"

-- Rows of the old service in each state. The digits at the end of the id name them below.
local OLD_ROWS <const> = [[
  insert into build_queue (id, customer_id, customer_name, customer_email, configuration_name, manifest_path, tier,
    architecture, cloud_provider, status, priority, progress_percent, current_step, error_message, retry_count,
    enqueued_at, started_at, completed_at, build_duration_seconds)
  select ('00000000-0000-4000-8000-0000000000' || n)::uuid, 'old', 'Old', 'old@example.org', 'x', m, 'pro', 'linux-x64',
    'aws', s, p, percent, step, error, r, now() - interval '50 days' + n::integer * interval '1 minute', began, ended, 7
  from (values
    ('01', 'good.json', 'pending', 1, 0, null, null, 0, null::timestamptz, null::timestamptz),
    ('02', 'good.json', 'pending', 3, 30, 'Generating solution', 'it failed', 2, now() - interval '49 days', null),
    ('03', 'good.json', 'pending', 1, 30, 'Generating solution', 'it failed', 3, now() - interval '49 days', null),
    ('04', 'good.json', 'pending', 1, 30, 'Generating solution', null, 5, now() - interval '49 days', null),
    ('05', 'good.json', 'building', 2, 50, 'Building for target platforms', null, 1, now() - interval '49 days', null),
    ('06', 'good.json', 'success', 1, 100, 'Build complete', null, 0, now() - interval '49 days',
     now() - interval '48 days'),
    ('07', 'good.json', 'failed', 1, 30, null, 'broken', 3, now() - interval '49 days', now() - interval '48 days'),
    ('08', 'good.json', 'cancelled', 1, 30, null, null, 0, null, now() - interval '48 days'),
    ('09', 'good.json', 'timedout', 1, 30, null, 'too long', 0, now() - interval '49 days', now() - interval '1 day'),
    ('10', '/old/path/of/the/old/service.json', 'pending', 0, 0, null, null, 0, null, null)
  ) as t(n, m, s, p, percent, step, error, r, began, ended);
]]

local function old_id(digits) return "00000000-0000-4000-8000-0000000000" .. digits end

local SCRIPTS <const> = builds.scripts {
  ["pipelines/file.lua"] = [[
    local fs = require("buildq").fs
    return { run = function(build)
      fs.write("x.txt", "x\n")
      build:artifact "x.txt"
    end }
  ]],
}

-- A server on an old table; paused, so that what it made of the rows can be looked at.
local function adopt(options, paused)
  options.scripts = SCRIPTS
  options.manifests = { ["good.json"] = { version = "1.0", name = "plain", pipeline = "file" } }
  local server = Server.new(options)
  server:sql(OLD_TABLE .. OLD_ROWS)
  if paused then
    assert.equal(0, server:command({ "migrate" }).code)
    -- Before any server has run on it, which would take a build without a node over.
    server.migrated = server:sql "select string_agg(status, ' ' order by id) from build_queue"
    server:sql "update queue_control set paused = true, pause_reason = 'spec'"
  end
  return server:launch()
end

describe("the old service's table", function()
  local server

  setup(function() server = adopt({}, true) end)

  teardown(function()
    if server then server:stop() end
  end)

  local function row(digits, columns)
    return server:sql(("select %s from build_queue where id = '%s'"):format(columns, old_id(digits)))
  end

  it("is adopted: running builds begin anew, used-up ones have failed, ended ones stay as they are", function()
    local expected = "pending pending failed failed pending success failed cancelled timedout pending"
    assert.equal(expected, server.migrated)
    assert.equal(expected, server:sql "select string_agg(status, ' ' order by id) from build_queue")
    assert.equal("t", server:sql "select bool_and(adopted) from build_queue")
    assert.equal("pending|0|||1", row("05", "status, progress_percent, current_step, started_at, retry_count"))
    assert.equal("failed|it failed|t", row("03", "status, error_message, completed_at is not null"))
    assert.truthy(row("04", "error_message"):find("retries were used up", 1, true))
    assert.equal("7", row("06", "build_duration_seconds"))
    assert.equal("broken|t", row("07", "error_message, completed_at < now() - interval '47 days'"))
  end)

  it("makes nobody get a mail", function()
    assert.equal("0", server:sql "select count(*) from outbox")
  end)

  it("is shown by the API like any other", function()
    assert.equal(10, #server:get("/builds?customerId=old&limit=100").json.builds)
    local build = server:get("/builds/" .. old_id "06").json
    assert.same({ "success", 100, 0, 7 },
      { build.status, build.progressPercent, build.attempt, build.buildDurationSeconds })
    assert.equal(4, server:get("/builds/statistics").json.pendingCount)
  end)

  it("keeps its history until somebody confirms the count", function()
    -- 03 and 04 have failed by the adoption: six have ended.
    local shown = json.decode(server:command({ "retention", "show" }).output)
    assert.same({ allowed = false, adoptedBuilds = 6, due = 3 }, shown)
    server:stop()
    server:launch() -- its janitor begins with a round; it has had it when a row that may go has gone
    local done = server:sql [[insert into idempotency_keys values ('old', 'x', gen_random_uuid(), '{}',
      now() - interval '2 days') returning key]]
    assert.truthy(done:find "old")
    server:stop()
    server:launch()
    server:wait_for(function() return server:sql "select count(*) from idempotency_keys" == "0" end, 30)
    server:stop() -- waits for the janitor
    server:launch()
    assert.equal("10", server:sql "select count(*) from build_queue")
    assert.equal(1, server:command({ "retention", "confirm", "7" }).code)
    assert.equal(0, server:command({ "retention", "confirm", "6" }).code)
    server:stop()
    server:launch()
    server:wait_for(function() return server:sql "select count(*) from build_queue" == "7" end, 30)
    assert.equal("01 02 03 04 05 09 10",
      server:sql "select string_agg(right(id::text, 2), ' ' order by id) from build_queue")
  end)

  it("is worked off: highest priority first, then oldest, with a mail for what happens now", function()
    server:post "/queue/resume"
    for _, digits in ipairs { "01", "02", "05" } do builds.await(server, old_id(digits), "success") end
    assert.equal("02 05 01", server:sql [[select string_agg(right(id::text, 2), ' ' order by started_at, claim_key)
      from build_queue where status = 'success']])
    local build = server:get("/builds/" .. old_id "02").json
    assert.same({ 1, 100, json.null, 2 },
      { build.attempt, build.progressPercent, build.errorMessage, build.retryCount })
    assert.equal("x\n", server:get(("/downloads/%s/x.txt"):format(old_id "05")).body)
    assert.equal("completed started", server:sql(([[select string_agg(event, ' ' order by event) from outbox
      where build_id = '%s']]):format(old_id "05")))
    -- What can't be read is said, once: it would not be there another time either.
    build = builds.await(server, old_id "10", "failed")
    assert.truthy(build.errorMessage:find("/old/path/of/the/old/service.json", 1, true), build.errorMessage)
    assert.equal(1, build.attempt)
  end)

  it("lets the old manual's clean-up delete, of new and of adopted builds, and removes their files", function()
    local ids = { old_id "05", builds.submit(server, { pipeline = "file" }) }
    builds.await(server, ids[2], "success")
    local function files(id)
      for _, kind in ipairs { "output", "state/logs" } do
        if uv.fs_stat(("%s/%s/%s"):format(server.directory, kind, id)) then return true end
      end
    end
    for _, id in ipairs(ids) do
      assert.truthy(files(id))
      server:sql(("update build_queue set completed_at = now() - interval '31 days' where id = '%s'"):format(id))
    end
    server:sql "delete from build_queue where completed_at < now() - interval '30 days'"
    for _, id in ipairs(ids) do assert.equal(404, server:get("/builds/" .. id).status) end
    assert.equal("0", server:sql(("select count(*) from outbox where build_id in ('%s', '%s')")
      :format(ids[1], ids[2])))
    server:stop()
    server:launch() -- its janitor begins with a round
    server:wait_for(function() return not files(ids[1]) and not files(ids[2]) end, 30)
    assert.truthy(uv.fs_stat(("%s/output/%s"):format(server.directory, old_id "01"))) -- not deleted: it has its files
  end)

  it("takes an old program's statements", function()
    -- A claim that the old service would have made, its progress, its end: nothing in our way breaks them.
    server:post("/queue/pause", { reason = "spec" })
    local id = server:sql [[insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
      manifest_path, tier, architecture, cloud_provider) values ('old', 'Old', 'old@example.org', 'x', 'good.json',
      'pro', 'linux-x64', 'aws') returning id]]:match "%S+"
    server:sql(("update build_queue set status = 'cancelled', completed_at = now() where id = '%s'"):format(id))
    local build = server:get("/builds/" .. id).json
    assert.equal("cancelled", build.status)
    server:post "/queue/resume"
    assert.equal("cancelled", server:get("/builds/" .. id).json.status)
  end)
end)

describe("adoption", function()
  it("goes by MaxRetryAttempts of the configuration, at the start of the server itself", function()
    local server = adopt { config = { BuildQueue = { MaxRetryAttempts = 5, EnableNotifications = true } } }
    assert.truthy(server:log():find("adopted 10 builds of the previous service", 1, true))
    assert.truthy(server:log():find("buildq retention confirm 5", 1, true)) -- 04 is used up, 03 is not
    builds.await(server, old_id "03", "success")
    assert.equal("failed", server:get("/builds/" .. old_id "04").json.status)
    assert.equal("0", server:sql(("select count(*) from outbox where build_id = '%s'"):format(old_id "04")))
    server:stop()
  end)

  it("is only once: a later start finds nothing to adopt", function()
    local server = adopt {}
    for _, digits in ipairs { "01", "02", "05" } do builds.await(server, old_id(digits), "success") end
    local rows = server:sql "select count(*) from build_events"
    server:stop()
    local from = #server:log()
    server:launch()
    assert.falsy(server:log():find("adopted", from, true))
    assert.equal(rows, server:sql "select count(*) from build_events")
    server:stop()
  end)
end)

describe("an old program with rights on build_queue alone", function()
  it("inserts, changes and deletes as ever: what triggers write is no business of its own", function()
    local server = Server.start { scripts = SCRIPTS, manifests = {
      ["good.json"] = { version = "1.0", name = "plain", pipeline = "file" } } }
    finally(function() server:stop() end)
    server:sql [[do $$ begin
      create role old_program; exception when duplicate_object then null; end $$;
      grant select, insert, update, delete on build_queue to old_program]]
    local function as_old(text) return server:sql("set role old_program; " .. text) end
    as_old [[insert into build_queue (id, customer_id, customer_name, customer_email, configuration_name,
      manifest_path, tier, architecture, cloud_provider) values ('00000000-0000-4000-8000-000000000077', 'o', 'O',
      'o@example.org', 'x', 'good.json', 'pro', 'linux-x64', 'aws')]]
    builds.await(server, "00000000-0000-4000-8000-000000000077", "success")
    assert.equal("queued", server:sql "select type from build_events where seq = 1")
    as_old "update build_queue set status = 'pending', priority = 3 where id = '00000000-0000-4000-8000-000000000077'"
    builds.await(server, "00000000-0000-4000-8000-000000000077", "success")
    as_old "delete from build_queue"
    assert.equal("0", server:sql "select count(*) from build_attempts")
    -- A table of the program's own is not taken for ours.
    server:sql "create schema theirs authorization old_program"
    as_old [[create table theirs.build_events (build_id uuid, seq integer, at timestamptz, type text, attempt integer,
      round integer, data jsonb); set search_path = theirs, public;
      insert into public.build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,
        tier, architecture, cloud_provider) values ('o', 'O', 'o@example.org', 'x', 'good.json', 'pro', 'linux-x64',
        'aws')]]
    assert.equal("0", server:sql "select count(*) from theirs.build_events")
    assert.equal("1", server:sql [[select count(*) from build_events
      where build_id = (select id from build_queue) and seq = 1]])
    server:sql "drop schema theirs cascade; drop owned by old_program"
  end)
end)
