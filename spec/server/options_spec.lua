-- Options of the old service that other specs don't turn the other way.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

local PIPELINES <const> = builds.scripts {
  ["pipelines/failing.lua"] = 'return { run = function() error "no luck" end }\n',
  ["pipelines/file.lua"] = [[
    local buildq = require "buildq"
    return { run = function(build)
      buildq.fs.mkdir "out"
      buildq.fs.write("out/x", "x")
      buildq.archive.pack { dir = "out", to = "x.tar.zst" }
      build:artifact("x.tar.zst", { kind = "archive" })
    end }
  ]],
}

describe("an option", function()
  it("UseExponentialBackoff false keeps the delay, MaxRetryAttempts bounds the tries", function()
    local server = Server.start {
      config = { BuildQueue = { UseExponentialBackoff = false, RetryDelayMinutes = 10, MaxRetryAttempts = 2 } },
      scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "failing" })
    for failure = 1, 2 do
      server:wait_for(function() return server:get("/builds/" .. id).json.retryCount == failure end, 30)
      local minutes = tonumber(server:sql(("select extract(epoch from run_after - updated_at) / 60 from build_queue "
        .. "where id = '%s'"):format(id)))
      assert.truthy(minutes > 8.9 and minutes < 11.1, minutes)
      server:sql(("update build_queue set run_after = now() where id = '%s'"):format(id))
    end
    assert.equal(3, builds.await(server, id, "failed").attempt)
    server:stop()
  end)

  it("EnableGracefulShutdown false gives running builds no time", function()
    local server = Server.start { config = { BuildQueue = { EnableGracefulShutdown = false } }, scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    assert.equal(0, server:stop())
    assert.equal("pending|0", server:sql(("select status, retry_count from build_queue where id = '%s'"):format(id)))
  end)

  it("DownloadBaseUrl is what customers see, else the server's address", function()
    local server = Server.start {
      config = { BuildQueue = { DownloadBaseUrl = "https://builds.example.org/get/" } }, scripts = PIPELINES }
    local build = builds.run(server, { pipeline = "file" })
    assert.equal(("https://builds.example.org/get/downloads/%s/x.tar.zst"):format(build.id), build.downloadUrl)
    server:stop()
    server.config.BuildQueue.DownloadBaseUrl = nil
    server:write_config()
    server:launch()
    build = builds.run(server, { pipeline = "file" })
    assert.equal(("http://%s/downloads/%s/x.tar.zst"):format(server.address, build.id), build.downloadUrl)
    assert.equal(200, server:get(("/downloads/%s/x.tar.zst"):format(build.id)).status)
    server:stop()
  end)
end)
