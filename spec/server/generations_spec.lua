-- Generations: reload on demand, activation for the cluster, a share of the builds, and the way back.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local json = require "dkjson"

local server

local function pipeline(word) return ("return { run = function(build) build:log %q end }\n"):format(word) end

local function ready(of) return (of or server):get("/readyz").json end

-- Saves the pipeline "word" and waits until it runs (or is on disk, while another one is held); returns its hash.
local function save(word, of)
  of = of or server
  local before = of:get("/generations").json.disk
  of:write("scripts", { ["pipelines/word.lua"] = pipeline(word) })
  return of:wait_for(function()
    local disk = of:get("/generations").json.disk
    return disk ~= before and disk
  end, 10, "another generation on disk")
end

local function says(word, of)
  local build = builds.run(of or server, { pipeline = "word" })
  assert.truthy(builds.log(of or server, build.id):find(word, 1, true), builds.log(of or server, build.id))
  return build
end

local function buildq(name, ...) return server:command { name, "--server", "http://" .. server.address, ... } end
local function command(...) return buildq("generations", ...) end

setup(function()
  server = Server.start {
    config = { BuildQueue = { MaxConcurrentBuilds = 2, MaxRetryAttempts = 0, PollIntervalSeconds = 1 } },
    scripts = builds.scripts { ["pipelines/word.lua"] = pipeline "one" },
  }
end)

teardown(function()
  if server then server:stop() end
end)

describe("a reload on demand", function()
  it("answers with what has changed, once it runs", function()
    local before = ready().generation
    server:write("scripts", { ["pipelines/word.lua"] = pipeline "reloaded", ["lib/fresh.lua"] = "return 1" })
    local answer = server:post("/admin/reload")
    assert.equal(200, answer.status)
    assert.equal(ready().generation, answer.json.generation)
    if answer.json.previous == before then -- else the watch was faster
      assert.same({ "scripts/lib/fresh.lua" }, answer.json.added)
      assert.same({ "scripts/pipelines/word.lua" }, answer.json.changed)
    end
    os.remove(server.directory .. "/scripts/lib/fresh.lua")
    local again = server:wait_for(function()
      local now = server:post("/admin/reload").json
      return now.generation == now.previous and now
    end, 10)
    assert.same({}, again.changed)
    says "reloaded"
  end)

  it("tells of a change also when the watch was faster", function()
    local before = ready().generation
    server:write("scripts", { ["pipelines/word.lua"] = pipeline "watched" })
    local now = server:wait_for(function()
      local generation = ready().generation
      return generation ~= before and generation
    end, 10)
    local answer = server:post("/admin/reload")
    assert.equal(now, answer.json.generation)
    assert.equal(before, answer.json.previous)
    assert.same({ "scripts/pipelines/word.lua" }, answer.json.changed)
  end)

  it("says file, line and reason of a fault, and leaves the old ones running", function()
    local before = ready().generation
    server:write("scripts", { ["pipelines/word.lua"] = "return {\n run = }" })
    local answer = server:post("/admin/reload")
    assert.equal(422, answer.status)
    assert.truthy(answer.json.detail:find("scripts/pipelines/word.lua:2: ", 1, true), answer.json.detail)
    assert.equal(before, ready().generation)
    local done = buildq "reload"
    assert.equal(1, done.code)
    assert.truthy(done.errors:find("scripts/pipelines/word.lua:2: ", 1, true), done.errors)
    server:write("scripts", { ["pipelines/word.lua"] = pipeline "mended" })
    done = buildq "reload"
    assert.equal(0, done.code)
    assert.truthy(done.output:find "is running" or done.output:find "was running", done.output)
    says "mended"
  end)
end)

describe("a pipeline that is just there", function()
  it("can be ordered at once: no build starts on the scripts before", function()
    for n = 1, 20 do
      server:write("scripts", { [("pipelines/fresh%d.lua"):format(n)] = pipeline "fresh" })
      assert.equal(200, server:post("/admin/reload").status)
      builds.run(server, { pipeline = ("fresh%d"):format(n) })
    end
  end)
end)

describe("an activation", function()
  it("holds a generation whatever the disk says, also over a restart, until it is released", function()
    local old = save "old"
    says "old"
    local new = save "new"
    local done = command("activate", old:sub(1, 10), "--reason", "the new one is bad")
    assert.equal(0, done.code)
    server:wait_for(function() return ready().generation == old end, 10, "the old generation")
    assert.equal(old, says("old").generation)
    assert.equal("the new one is bad", ready().activation.reason)

    local newest = save "newest" -- built and checked, not swapped
    assert.equal(old, ready().generation)
    says "old"
    local answer = server:post("/admin/reload").json
    assert.is_true(answer.held)
    assert.equal(newest, answer.disk)
    server:write("scripts", { ["pipelines/word.lua"] = "return {" })
    assert.equal(422, server:post("/admin/reload").status)
    assert.truthy(server:get("/readyz").body:find("scripts/pipelines/word.lua", 1, true))
    save "newest again"

    server:stop()
    server:launch()
    server:wait_for(function() return ready().generation == old end, 10, "the old generation after the restart")
    says "old"

    done = command "release"
    assert.equal(0, done.code)
    server:wait_for(function() return ready().generation ~= old end, 10, "the disk's")
    says "newest again"
    assert.is_nil(ready().activation)
    assert.not_equal(new, ready().generation)
    local history = server:get("/generations").json.history
    assert.equal(json.null, history[1].generation)
    assert.equal(old, history[2].generation)
    assert.truthy(history[2].who:find "@")
    local listed = command("list").output
    assert.truthy(listed:find("released by [^\n]+\n[^\n]+ activated " .. old:sub(1, 12)
      .. " 100%% by [^\n]+@[^\n]+: the new one is bad"), listed)
  end)

  it("may take a share of the builds; the list shows both side by side", function()
    local old = save "left"
    says "left"
    local new = save "right"
    assert.equal(200, server:post("/generations/activate", { generation = old, share = 40, who = "spec" }).status)
    local ids = {}
    for n = 1, 40 do ids[n] = builds.submit(server, { pipeline = "word" }) end
    local seen = { [old] = 0, [new] = 0 }
    for _, id in ipairs(ids) do
      local build = builds.await(server, id, "success", 60)
      seen[build.generation] = seen[build.generation] + 1
      assert.truthy(builds.log(server, id):find(build.generation == old and "left" or "right", 1, true))
    end
    assert.truthy(seen[old] >= 5 and seen[new] >= 12, ("%d and %d"):format(seen[old], seen[new]))
    assert.equal(new, ready().generation) -- routes and policies stay the disk's
    local listed = {}
    for _, g in ipairs(server:get("/generations").json.generations) do listed[g.hash] = g end
    assert.equal(seen[new], listed[new].succeeded)
    assert.equal(seen[old] + 1, listed[old].succeeded)
    assert.truthy(listed[new].p50Seconds >= 0)
    local done = command "list"
    assert.truthy(done.output:find "active 40%%" and done.output:find "running, on disk", done.output)
    assert.equal(200, server:post("/generations/release", { who = "spec" }).status)
  end)

  it("refuses what there is not, and what can't be", function()
    assert.equal(404, server:post("/generations/activate", { generation = "0000000000" }).status)
    assert.equal(404, server:get("/generations/xyz").status)
    for n = 1, 17 do server:sql(("insert into script_generations (hash) values (md5('%d') || md5('x'))"):format(n)) end
    local twice = server:sql "select left(hash, 1) from script_generations group by 1 having count(*) > 1 limit 1"
    assert.equal(409, server:get("/generations/" .. twice).status)
    assert.equal(400, server:post("/generations/activate", {}).status)
    assert.equal(400, server:post("/generations/activate", { generation = "a", share = 0 }).status)
    assert.equal(4, command("activate", "0000000000").code)
    assert.equal(2, command("activate", "00", "--share", "101%").code)
  end)
end)

describe("a comparison", function()
  it("shows what differs, as diff does", function()
    local one = save "first words"
    local two = save "second words"
    local done = command("diff", one, two)
    assert.equal(0, done.code)
    assert.truthy(done.output:find("-return { run = function(build) build:log \"first words\"", 1, true), done.output)
    assert.truthy(done.output:find("+return { run = function(build) build:log \"second words\"", 1, true))
    done = command("show", one:sub(1, 12))
    assert.truthy(done.output:find("scripts/pipelines/word.lua", 1, true))
  end)
end)

describe("a second server with other scripts", function()
  it("follows the activation, and runs the builds of generations it does not have", function()
    local other = Server.new {
      database = server.database, config = { BuildQueue = { MaxConcurrentBuilds = 2, PollIntervalSeconds = 1 } },
      scripts = builds.scripts { ["pipelines/word.lua"] = pipeline "elsewhere" },
    }
    other:launch()
    finally(function() other:stop() end)
    local old = save "ours"
    server:wait_for(function()
      return server:sql(("select count(*) from script_generations where hash = '%s'"):format(old)) == "1"
    end, 10, "its sources in the database")
    assert.equal(200, server:post("/generations/activate", { generation = old }).status)
    other:wait_for(function() return ready(other).generation == old end, 10, "the other server to follow")
    server:stop()
    says("ours", other)
    server:launch()
    assert.equal(200, server:post("/generations/release").status)
    other:wait_for(function() return ready(other).generation ~= old end, 10, "the other server's own")
  end)
end)
