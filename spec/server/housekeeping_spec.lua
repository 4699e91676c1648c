-- What happens without anybody asking: retention, orphaned files, leftovers; and SIGHUP.
local uv = require "luv"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local PIPELINES <const> = builds.scripts {
  ["pipelines/file.lua"] = [[
    local fs = require("buildq").fs
    return { run = function(build)
      fs.write("x.txt", "x\n")
      build:artifact "x.txt"
    end }
  ]],
}

local function paths(server, id)
  return { ("%s/output/%s"):format(server.directory, id), ("%s/state/logs/%s"):format(server.directory, id) }
end

local function none_left(list)
  for _, path in ipairs(list) do
    if uv.fs_stat(path) then return false end
  end
  return true
end

describe("housekeeping", function()
  it("removes builds that ended long ago, and their files, when it may", function()
    local server = Server.start { config = { BuildQueue = { CompletedBuildRetentionDays = 2 } }, scripts = PIPELINES }
    local old, young = builds.submit(server, { pipeline = "file" }), builds.submit(server, { pipeline = "file" })
    builds.await(server, old, "success")
    builds.await(server, young, "success")
    server:sql(("update build_queue set completed_at = now() - interval '3 days' where id = '%s'"):format(old))
    server:sql "update queue_control set retention_allowed = false"
    server:stop()
    server:launch()
    server:wait_for(function() return server:get("/readyz").status == 200 end, 30)
    assert.equal(200, server:get("/builds/" .. old).status) -- an adopted table is not touched before somebody agrees
    server:sql "update queue_control set retention_allowed = true"
    server:stop()
    server:launch() -- its janitor begins with a round
    server:wait_for(function() return server:get("/builds/" .. old).status == 404 end, 40)
    server:stop()
    server:launch()
    server:wait_for(function() return none_left(paths(server, old)) end, 40)
    assert.equal(200, server:get("/builds/" .. young).status)
    assert.falsy(none_left(paths(server, young)))
    server:stop()
  end)

  it("removes the files that the old manual's clean-up orphaned, and nothing else", function()
    local server = Server.start { scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "file" })
    builds.await(server, id, "success")
    server:sql(("delete from build_queue where id = '%s'"):format(id))
    process.write(server.directory .. "/output/notes.txt", "mine\n")
    server:stop()
    server:launch()
    server:wait_for(function() return none_left(paths(server, id)) end, 40)
    assert.truthy(uv.fs_stat(server.directory .. "/output/notes.txt"))
    server:stop()
  end)

  it("removes what attempts left that another one has replaced", function()
    local server = Server.start { scripts = PIPELINES }
    local id = builds.run(server, { pipeline = "file" }).id
    assert.equal(202, server:post("/builds/" .. id .. "/retry").status)
    server:wait_for(function() return server:get("/builds/" .. id).json.attempt == 2 end, 30)
    builds.await(server, id, "success")
    assert.equal(0, server:stop())
    -- As a server leaves it that was killed, and whose build went on elsewhere.
    local output, workspace = ("%s/output/%s/"):format(server.directory, id), builds.workspace(server, id, 1)
    for _, path in ipairs { output .. "attempt-1/whole", output .. ".attempt-1.partial/half", workspace } do
      process.check { "mkdir", "-p", path }
    end
    local user = process.ordinary_user()
    if user then process.check { "chown", "-R", user.name .. ":", server.directory .. "/builds" } end
    if user then process.check { "chown", "-R", user.name .. ":", server.directory .. "/output" } end
    server:launch()
    server:wait_for(function()
      return none_left { output .. "attempt-1", output .. ".attempt-1.partial", (workspace:gsub("/[^/]*$", "")) }
    end, 40)
    assert.equal("x\n", server:get(("/downloads/%s/x.txt"):format(id)).body)
    server:stop()
  end)

  it("starts nothing while the disk is short of its reserve, and says so", function()
    local server = Server.start { config = { BuildQueue = { DiskReserveMegabytes = 2000000000 } }, scripts = PIPELINES,
      ready = false }
    server:wait_for(function() return server:get("/readyz").status == 503 end, 40)
    local id = builds.submit(server, { pipeline = "quick" })
    assert.truthy(server:get("/readyz").body:find("DiskReserveMegabytes", 1, true))
    server.config.BuildQueue.DiskReserveMegabytes = 0
    server:write_config()
    server:kill "sighup"
    builds.await(server, id, "success")
    server:stop()
  end)

  it("takes at SIGHUP what can change, and names what needs a restart", function()
    local server = Server.start { config = { BuildQueue = { MaxConcurrentBuilds = 1 } }, scripts = PIPELINES }
    local ids = { builds.submit(server, { pipeline = "gate" }), builds.submit(server, { pipeline = "gate" }) }
    builds.await(server, ids[1], "building")
    assert.equal("pending", server:get("/builds/" .. ids[2]).json.status)
    server.config.BuildQueue.MaxConcurrentBuilds = 2
    server.config.BuildQueue.LeaseSeconds = 60
    server:write_config()
    server:kill "sighup"
    builds.await(server, ids[2], "building")
    assert.truthy(server:log():find("needs a restart[^\n]*LeaseSeconds"), server:log())
    for _, id in ipairs(ids) do
      builds.open_gate(server, id)
      builds.await(server, id, "success")
    end
    server.config.BuildQueue.MaxConcurrentBuilds = "many"
    server:write_config()
    server:kill "sighup"
    server:wait_for(function() return server:log():find("changed configuration is not used", 1, true) end, 30)
    assert.equal(200, server:get("/readyz").status)
    server:stop()
  end)
end)
