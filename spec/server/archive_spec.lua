-- Ended builds as JSON lines, and back.
local json = require "dkjson"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local SCRIPTS <const> = builds.scripts {
  ["pipelines/fails.lua"] = [[return { run = function(build) build:fail("no luck", { retry = false }) end }]],
}

local TABLES <const> = { "build_queue", "build_attempts", "build_events" }

-- All that SQL knows of the builds, but for when they were restored.
local function contents(server)
  local parts = {}
  for i, name in ipairs(TABLES) do
    parts[i] = server:sql(([[select coalesce(jsonb_agg(r order by r::text), '[]')
      from (select to_jsonb(t) - 'restored_at' as r from %s t) as rows]]):format(name))
  end
  return table.concat(parts, "\n")
end

describe("buildq archive", function()
  local server, path

  setup(function()
    server = Server.start { scripts = SCRIPTS, config = { BuildQueue = { CompletedBuildRetentionDays = 2 } } }
    path = process.directory() .. "/builds.jsonl"
    builds.run(server, { pipeline = "quick" })
    builds.run(server, { pipeline = "fails" }, "failed")
    server:sql "update build_queue set completed_at = now() - interval '3 days'"
    server:sql "update build_events set at = at - interval '100 days'"
  end)
  teardown(function() server:stop() end)

  it("writes what has ended before a time, and puts it back as it was", function()
    local waiting = builds.submit(server, { pipeline = "gate" })
    server:wait_for(function() -- its progress is written: nothing changes the row any more
      return server:get("/builds/" .. waiting).json.currentStep == "Waiting"
    end)
    local before = contents(server)
    local done = server:command { "archive", "--before", "1d", "--to", path }
    assert.equal(0, done.code, done.errors)
    assert.truthy(done.errors:find("2 builds archived", 1, true))
    assert.equal("600", process.check { "stat", "-c", "%a", path })
    local lines = {}
    for line in process.read(path):gmatch "[^\n]+" do lines[#lines + 1] = assert(json.decode(line)) end
    assert.equal(3, #lines)
    assert.equal("buildq archive 1", lines[1].format)
    assert.equal("quick", lines[2].build.pipeline)
    assert.equal("success", lines[2].attempts[1].outcome)
    assert.equal("queued", lines[2].events[1].type)
    server:sql [[delete from build_events where build_id in (select id from build_queue where status <> 'building');
      delete from build_queue where status <> 'building'; delete from build_manifests]]
    local owed = server:sql "select count(*) from outbox"
    done = server:command { "archive", "--restore", path }
    assert.equal(0, done.code, done.errors)
    assert.truthy(done.errors:find("2 builds restored, 0 there already", 1, true), done.errors)
    assert.equal(before, contents(server))
    assert.equal(owed, server:sql "select count(*) from outbox") -- nobody gets a mail for it
    assert.truthy(server:command({ "archive", "--restore", path }).errors:find("0 builds restored, 2 there", 1, true))
    assert.equal(before, contents(server))
    -- What was restored stays its time; it does not go with the next round of retention.
    assert.equal("2", server:sql [[select count(*) from build_queue where completed_at < now() - interval '2 days'
      and restored_at > now() - interval '1 hour']])
    builds.open_gate(server, waiting)
    builds.await(server, waiting, "success")
    server:stop()
    server:launch()
    server:wait_for(function() return server:log():find("joined the cluster", 1, true) end, 20)
    for _, line in ipairs { lines[2], lines[3] } do
      assert.equal(200, server:get("/builds/" .. line.build.id).status)
      assert.equal(202, server:post("/builds/" .. line.build.id .. "/retry").status)
    end
    builds.await(server, lines[2].build.id, "success")
  end)

  it("refuses what is no archive, and never overwrites one", function()
    assert.equal(1, server:command({ "archive", "--before", "1d", "--to", path }).code)
    assert.equal(2, server:command({ "archive", "--before", "soon", "--to", path .. ".new" }).code)
    assert.equal(2, server:command({ "archive", "--before", "1d" }).code)
    local wrong = server.directory .. "/wrong"
    process.write(wrong, "{}\n")
    local done = server:command { "archive", "--restore", wrong }
    assert.equal(1, done.code)
    assert.truthy(done.errors:find("is no archive", 1, true))
    process.write(wrong, '{"format": "buildq archive 1"}\n{"build": {"id": "x"}}\n')
    done = server:command { "archive", "--restore", wrong }
    assert.equal(1, done.code)
    assert.truthy(done.errors:find(wrong .. ":2", 1, true), done.errors)
  end)
end)
