-- Ends that nobody asked for: signals, crashes, lost leases.
local uv = require "luv"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"

local PIPELINES <const> = builds.scripts {
  ["pipelines/noop.lua"] = "return { run = function() end }\n",
  -- A command that tells when it runs, a file that lets it end, and an artifact that says whose it is.
  ["pipelines/command.lua"] = [[
    return { run = function(build)
      build:exec { argv = { "sh", "-c", "echo started; while [ ! -e go ]; do sleep 0.05; done", build.metadata.mark } }
      require("buildq").fs.write("x.txt", "of attempt " .. build.attempt)
      build:artifact "x.txt"
    end }
  ]],
}

local function processes(mark)
  return tonumber(io.popen("exec pgrep -fc 'while .*" .. mark .. "$'"):read "a") or 0
end

local function new_mark() return ("mark%d"):format(math.random(100000000, 999999999)) end

local function start_command(server)
  local mark = new_mark()
  local id = builds.submit(server, { pipeline = "command", metadata = { mark = mark } })
  builds.await(server, id, "building")
  server:wait_for(function() return builds.log(server, id):find "started" end, 10, "the command to run")
  assert.truthy(processes(mark) > 0)
  return id, mark
end

local function attempts(server, id)
  return server:sql(("select string_agg(coalesce(outcome, 'running'), ' ' order by attempt) from build_attempts "
    .. "where build_id = '%s'"):format(id))
end

describe("a server that is stopped", function()
  it("lets running builds end within the grace time", function()
    local server = Server.start { scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    server:kill "sigterm"
    builds.open_gate(server, id)
    assert.equal(0, server.child:wait(20))
    assert.equal("success", server:sql(("select status from build_queue where id = '%s'"):format(id)))
    assert.equal("stopped", server:sql "select state from nodes")
  end)

  it("gives back what does not end in time, uncharged, and the next start finishes it", function()
    local server = Server.start {
      config = { BuildQueue = { GracefulShutdownTimeoutSeconds = 1, StopGraceSeconds = 1 } }, scripts = PIPELINES }
    local id, mark = start_command(server)
    local generation = server:sql(("select generation from build_queue where id = '%s'"):format(id))
    assert.equal(0, server:stop())
    assert.equal(0, processes(mark))
    assert.equal("pending|0", server:sql(("select status, retry_count from build_queue where id = '%s'"):format(id)))
    server:launch()
    builds.await(server, id, "building")
    builds.open_gate(server, id, 2)
    local build = builds.await(server, id, "success")
    assert.equal(2, build.attempt)
    assert.equal(0, build.retryCount)
    assert.equal(generation, build.generation)
    assert.equal("requeued success", attempts(server, id))
    server:stop()
  end)

  it("stops at once at the second signal, and takes its commands along", function()
    local server = Server.start { scripts = PIPELINES }
    local id, mark = start_command(server)
    server:kill "sigterm"
    server:wait_for(function() return server:log():find("stopping: no new builds", 1, true) end, 30)
    server:kill "sigterm"
    server.child:wait(30)
    server:wait_for(function() return processes(mark) == 0 end, 30)
    assert.equal("building", server:sql(("select status from build_queue where id = '%s'"):format(id)))
    server:launch()
    builds.await(server, id, "building")
    server:wait_for(function() return attempts(server, id) == "lost running" end, 30)
    assert.equal(202, server:post("/builds/" .. id .. "/cancel").status)
    builds.await(server, id, "cancelled")
    server:stop()
  end)
end)

describe("a server that stops", function()
  it("claims nothing any more", function()
    local server = Server.start {
      config = { BuildQueue = { MaxConcurrentBuilds = 4, PollIntervalSeconds = 1 } }, scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    server:kill "sigterm"
    server:wait_for(function() return server:log():find("stopping: no new builds", 1, true) end, 30)
    -- It is announced, and slots are free.
    local late = server:sql(([[insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
      manifest_path, tier, architecture, cloud_provider, pipeline, manifest_hash) select customer_id, customer_name,
      customer_email, configuration_name, manifest_path, tier, architecture, cloud_provider, 'noop', manifest_hash
      from build_queue where id = '%s' returning id]]):format(id)):match "%S+"
    builds.open_gate(server, id)
    assert.equal(0, server.child:wait(30))
    assert.equal("pending|0", server:sql(("select status, attempt from build_queue where id = '%s'"):format(late)))
    server:launch()
    builds.await(server, late, "success")
    server:stop()
  end)

  it("gives running builds no time without EnableGracefulShutdown", function()
    local server = Server.start { scripts = PIPELINES,
      config = { BuildQueue = { EnableGracefulShutdown = false, GracefulShutdownTimeoutSeconds = 600 } } }
    local id, mark = start_command(server)
    assert.equal(0, server:stop())
    assert.equal(0, processes(mark))
    assert.equal("pending|0", server:sql(("select status, retry_count from build_queue where id = '%s'"):format(id)))
    assert.equal("requeued", attempts(server, id))
  end)
end)

describe("a server that is killed", function()
  it("leaves no command behind, and its next start takes the build over at once", function()
    local server = Server.start { config = { BuildQueue = { LeaseSeconds = 600 } }, scripts = PIPELINES }
    local id, mark = start_command(server)
    server:kill "sigkill"
    server.child:wait(30)
    server:wait_for(function() return processes(mark) == 0 end, 30)
    server:launch()
    server:wait_for(function() return attempts(server, id) == "lost running" end, 30)
    builds.open_gate(server, id, 2)
    local build = builds.await(server, id, "success")
    assert.equal(0, build.retryCount)
    server:stop()
  end)

  it("has its builds taken over with the scripts they began with", function()
    local function scripts(words)
      return builds.scripts { ["pipelines/words.lua"] = ([[
        local buildq = require "buildq"
        return { run = function(build)
          while not buildq.fs.exists "go" do buildq.sleep(0.02) end
          build:log "%s"
        end }
      ]]):format(words) }
    end
    local server = Server.start { config = { BuildQueue = { LeaseSeconds = 600 } }, scripts = scripts "old words" }
    local id = builds.submit(server, { pipeline = "words" })
    builds.await(server, id, "building")
    server:kill "sigkill"
    server.child:wait(30)
    server:write("scripts", scripts "new words")
    server:launch()
    server:wait_for(function() return attempts(server, id) == "lost running" end, 30)
    builds.open_gate(server, id, 2)
    local build = builds.await(server, id, "success")
    assert.truthy(builds.log(server, id):find("old words", 1, true))
    assert.not_equal(server:get("/readyz").json.generation, build.generation)
    id = builds.submit(server, { pipeline = "words" })
    builds.open_gate(server, id)
    builds.await(server, id, "success")
    assert.truthy(builds.log(server, id):find("new words", 1, true))
    server:stop()
  end)

  it("is known to its next start also when it had to join anew", function()
    local server = Server.start { config = { BuildQueue = { LeaseSeconds = 600 } }, scripts = PIPELINES }
    local id = start_command(server)
    server:sql "update nodes set state = 'dead'; notify buildq_control"
    server:wait_for(function() return attempts(server, id) == "lost running" end, 30)
    server:wait_for(function() return not uv.fs_stat(builds.workspace(server, id, 1)) end, 30, "attempt 1 to end")
    server:kill "sigkill"
    server.child:wait(30)
    server:launch()
    server:wait_for(function() return attempts(server, id) == "lost lost running" end, 30)
    builds.open_gate(server, id, 3)
    builds.await(server, id, "success")
    assert.equal("dead dead live", server:sql "select string_agg(state, ' ' order by state) from nodes")
    server:stop()
  end)

  it("shows nothing of what it had not recorded", function()
    local server = Server.start { scripts = PIPELINES }
    local id = start_command(server)
    local download, output = ("/downloads/%s/x.txt"):format(id), ("%s/output/%s/"):format(server.directory, id)
    postgres.stop "sigint"
    builds.open_gate(server, id)
    -- Published on the disk; that this is so can't be recorded.
    server:wait_for(function() return uv.fs_stat(output .. "attempt-1/x.txt") end, 30)
    server:wait_for(function() return server:log():find("a write waits for the database", 1, true) end, 30)
    server:kill "sigkill"
    server.child:wait(30)
    postgres.restart()
    server:launch()
    server:wait_for(function() return attempts(server, id) == "lost running" end, 30)
    assert.equal(404, server:get(download).status)
    assert.same({}, server:get(("/builds/%s/artifacts"):format(id)).json.artifacts)
    assert.same({ status = "building", attempt = 2 }, server:rows(
      ("select status, attempt from build_queue where id = '%s' and output_path is null and download_url is null")
      :format(id))[1])
    builds.open_gate(server, id, 2)
    builds.await(server, id, "success")
    assert.equal("of attempt 2", server:get(download).body)
    server:stop()
  end)

  it("never leaves half an artifact to be seen", function()
    -- Large enough that its copy, its hash and its fsync take a while.
    local server = Server.start { scripts = builds.scripts { ["pipelines/large.lua"] = [[
      return { run = function(build)
        build:exec { argv = { "sh", "-c", "head -c 200000000 /dev/zero | tr '\\0' x > large.bin" } }
        build:log "made"
        build:artifact "large.bin"
        build:artifact("large.bin", { name = "again.bin" })
      end }
    ]] } }
    local id = builds.submit(server, { pipeline = "large" })
    local output = ("%s/output/%s"):format(server.directory, id)
    -- Whatever name the first bytes have: they are on the disk, and the build is not done.
    server:wait_for(function()
      return process.check { "sh", "-c", "find " .. output .. " -type f -size +0 2>/dev/null; :" } ~= ""
    end, 30, "the first bytes of the artifact")
    server:kill "sigkill"
    server.child:wait(30)
    assert.falsy(uv.fs_stat(output .. "/attempt-1"))
    server:launch()
    assert.equal(404, server:get(("/downloads/%s/large.bin"):format(id)).status)
    local build = builds.await(server, id, "success")
    assert.equal(2, build.attempt)
    assert.equal(200000000, uv.fs_stat(output .. "/attempt-2/large.bin").size)
    process.check { "sh", "-c", "cd " .. output .. "/attempt-2 && sha256sum --quiet -c SHA256SUMS" }
    assert.equal("attempt-2", process.check { "ls", "-A", output }) -- the first one's half takes no room either
    server:stop()
  end)

  it("is replaced by another server after its lease", function()
    local options = { config = { BuildQueue = { LeaseSeconds = 3, MaxConcurrentBuilds = 1 } }, scripts = PIPELINES }
    local first = Server.start(options)
    local id = start_command(first)
    options.database = first.database
    local second = Server.start(options)
    first:kill "sigkill"
    first.child:wait(30)
    second:wait_for(function() return attempts(second, id) == "lost running" end, 40)
    builds.open_gate(second, id, 2)
    builds.await(second, id, "success")
    assert.equal("dead live", second:sql "select string_agg(state, ' ' order by state) from nodes")
    second:stop()
  end)

  it("changes nothing when it wakes up after its lease", function()
    local options = { config = { BuildQueue = { LeaseSeconds = 3, MaxConcurrentBuilds = 1 } }, scripts = PIPELINES }
    local first = Server.start(options)
    local id = start_command(first)
    options.database = first.database
    local second = Server.start(options)
    first:kill "sigstop"
    second:wait_for(function() return attempts(second, id) == "lost running" end, 40)
    builds.open_gate(first, id, 1) -- the stale attempt would succeed
    first:kill "sigcont"
    first:wait_for(function() return first:log():find("declared dead", 1, true) end, 30)
    builds.open_gate(second, id, 2)
    local build = builds.await(second, id, "success")
    assert.equal(2, build.attempt)
    first:wait_for(function() return first:log():find("attempt=1 status=superseded", 1, true) end, 30)
    first:wait_for(function() return not uv.fs_stat(("%s/output/%s"):format(first.directory, id)) end, 30)
    first:wait_for(function() return not uv.fs_stat(("%s/builds/%s"):format(first.directory, id)) end, 30)
    assert.equal("lost success", attempts(second, id))
    assert.equal("of attempt 2", second:get(("/downloads/%s/x.txt"):format(id)).body)
    assert.equal("completed queued started", second:sql(([[select string_agg(event, ' ' order by event) from outbox
      where build_id = '%s']]):format(id)))
    first:stop()
    second:stop()
  end)

  it("loses a build that takes it down again and again", function()
    local server = Server.start { scripts = PIPELINES }
    local id = start_command(server)
    for lost = 1, 4 do
      server:kill "sigkill"
      server.child:wait(30)
      server:launch()
      if lost < 4 then
        server:wait_for(function() return attempts(server, id) == ("lost "):rep(lost) .. "running" end, 30)
      end
    end
    local build = builds.await(server, id, "failed")
    assert.truthy(build.errorMessage:find("lost more than three times", 1, true), build.errorMessage)
    server:stop()
  end)
end)
