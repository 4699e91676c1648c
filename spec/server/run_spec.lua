-- `buildq run`: one build in the foreground; and what `buildq test` says when it can't.
local uv = require "luv"
local process = require "spec.support.process"
local Server = require "spec.support.server"

local STEPS <const> = [[
return { run = function(build)
  build:step("First", { at = 10 }, function()
    local said = build.tier .. " " .. tostring(build.manifest.name)
    build:exec { argv = { "sh", "-c", "echo $0 > first.txt; echo said $0", said } }
  end)
  build:step("Second", { at = 50 }, function()
    if build.metadata.fails then build:fail("as asked: " .. build.customer.name) end
    build:artifact("first.txt")
  end)
end }]]

describe("buildq run", function()
  local server, directory, manifest

  setup(function()
    server = Server.new { database = false, scripts = { ["pipelines/steps.lua"] = STEPS } }
    manifest = server.directory .. "/manifests/order.json"
    process.write(manifest, '{"version": "1.0", "name": "order", "tier": "basic"}')
  end)

  before_each(function() directory = process.directory() end)

  local function run(...)
    return server:command { "run", "steps", "--manifest", manifest, "--directory", directory, ... }
  end

  it("shows the log as it comes, and its exit code is the build's", function()
    local done = run()
    assert.equal(0, done.code, done.errors)
    assert.matches("sys| step: First\n", done.output, 1, true)
    assert.matches("out| said basic order\n", done.output, 1, true)
    local output = done.output:match "success: (%S+)"
    assert.equal("basic order\n", process.read(output .. "/first.txt"))
    assert.equal("", process.run({ "find", directory .. "/builds", "-type", "f" }).output)

    local failed = run("--set", "metadata.fails=true", "--set", "customer.name=Zoe")
    assert.equal(6, failed.code)
    assert.matches("the build failed: as asked: Zoe", failed.errors, 1, true)
  end)

  it("gives the build what --set says, and checks a changed manifest as any", function()
    local done = run("--set", "tier=gold", "--set", "manifest.tier=gold", "--set", "manifest.name=other")
    assert.matches("said gold other", done.output, 1, true)
    local refused = run("--set", "manifest.version=9")
    assert.equal(6, refused.code)
    assert.matches("$.version", refused.errors, 1, true)
    for _, wrong in ipairs { "tire=gold", "tier", "=x", "manifest.=1" } do
      local result = run("--set", wrong)
      assert.equal(1, result.code, wrong)
      assert.matches("--set", result.errors, 1, true)
    end
  end)

  it("ends behind a step, and keeps the workspace then", function()
    local stopped = run("--stop-after", "First")
    assert.equal(0, stopped.code, stopped.errors)
    assert.is_nil(stopped.output:find("step: Second", 1, true))
    local workspace = stopped.output:match "its workspace: (%S+)"
    assert.equal("basic order\n", process.read(workspace .. "/first.txt"))
    local missed = run("--stop-after", "Third")
    assert.equal(1, missed.code)
    assert.matches("without a step Third", missed.errors, 1, true)
  end)

  it("knows a name that is nearly right", function()
    local result = server:command { "run", "stpes", "--manifest", manifest, "--directory", directory }
    assert.equal(1, result.code)
    assert.matches("there is no pipeline stpes, neither shipped nor in ScriptDirectory; did you mean steps?",
      result.errors, 1, true)
  end)

  it("leaves nothing of a build that could not be started", function()
    -- In a /tmp of its own, where nobody else makes directories.
    local root = server.directory
    local result = process.run { "bwrap", "--dev-bind", "/", "/", "--tmpfs", "/tmp", "--chmod", "1777", "/tmp",
      "--bind", root, root, "--bind", uv.cwd(), uv.cwd(), "sh", "-c",
      '"$0" run nosuch --config "$1" --manifest "$2"; ls -d /tmp/buildq-run-*',
      Server.program(), root .. "/appsettings.json", manifest }
    assert.matches("there is no pipeline nosuch", result.errors, 1, true)
    assert.equal("", result.output)
  end)

  it("keeps the workspace when told so", function()
    local workspace = run("--keep").output:match "workspace: (%S+)"
    assert.equal("basic order\n", process.read(workspace .. "/first.txt"))
  end)

  it("says which file is wrong when the scripts can't be used", function()
    local broken = Server.new { database = false, scripts = { ["pipelines/steps.lua"] = "return {" } }
    local result = broken:command { "run", "steps", "--manifest", manifest, "--directory", directory }
    assert.equal(1, result.code)
    assert.matches("scripts/pipelines/steps.lua:1:", result.errors, 1, true)
  end)
end)

describe("buildq test", function()
  local server

  before_each(function()
    server = Server.new { database = false, scripts = { ["pipelines/steps.lua"] = STEPS } }
  end)

  local function test(text, ...)
    process.write(server.directory .. "/scripts/pipelines/steps_spec.lua", text)
    return server:command({ "test", "--output", "TAP", ... }, { cwd = server.directory })
  end

  local PASSES <const> = [[
    local test = require "buildq.test"
    it("passes", function()
      test.exec:on("sh", { files = { ["first.txt"] = "x" } })
      assert.build_succeeded(test.run "steps")
    end)
    it("waits for another day", function() pending "later" end)]]

  it("finds the specs below ScriptDirectory, and leaves nothing behind", function()
    local env = server:environment()
    env.TMPDIR = process.directory()
    process.write(server.directory .. "/scripts/pipelines/steps_spec.lua", PASSES)
    local done = server:command({ "test", "--output", "TAP" }, { cwd = server.directory, env = env })
    assert.equal(0, done.code, done.output .. done.errors)
    assert.matches("ok 1 - passes", done.output, 1, true)
    assert.equal("", process.run({ "find", env.TMPDIR, "-mindepth", "1" }).output)
    local one = server:command({ "test", "--output", "TAP", "--filter", "passes" }, { cwd = server.directory })
    assert.matches("1..1", one.output, 1, true)
  end)

  it("ends with 1 when a test fails, and tells why", function()
    local done = test [[
      local test = require "buildq.test"
      it("fails", function() assert.build_succeeded(test.run "steps") end)]]
    assert.equal(1, done.code)
    assert.matches('no answer for "sh -c', done.output, 1, true)
  end)

  it("ends with all it has started when it is stopped, and cleans up", function()
    local env = server:environment()
    env.TMPDIR = process.directory()
    local log = server.directory .. "/test.log"
    process.write(server.directory .. "/scripts/pipelines/steps_spec.lua", [[
      local test = require "buildq.test"
      it("goes on and on", function()
        test.database()
        print "it runs"
        io.stdout:flush()
        while true do test.clock.offset() end
      end)]])
    local config = server.directory .. "/appsettings.json"
    local child = process.spawn({ Server.program(), "test", "--config", config, "--output", "TAP" },
      { cwd = server.directory, env = env, to = log })
    process.wait_for(function() return process.read(log):find("it runs", 1, true) end, 30, "the spec")
    child:kill "sigterm"
    child:wait(30)
    assert.equal("", process.run({ "find", env.TMPDIR, "-mindepth", "1" }).output)
    assert.equal("", process.run({ "pgrep", "-f", env.TMPDIR }).output)
  end)

  it("never touches the configured database", function()
    server.config.BuildQueue.ConnectionString = "host=/nonexistent dbname=customers"
    server:write_config()
    local env = server:environment()
    env.BuildQueue__ConnectionString = "host=/nonexistent dbname=others"
    env.ConnectionStrings__DefaultConnection = "host=/nonexistent dbname=third"
    process.write(server.directory .. "/scripts/pipelines/steps_spec.lua", [[
      local test = require "buildq.test"
      it("has its own", function()
        test.database()
        assert.equal("buildq", test.sql("select current_database() as name")[1].name)
      end)]])
    local done = server:command({ "test", "--output", "TAP" }, { cwd = server.directory, env = env })
    assert.equal(0, done.code, done.output .. done.errors)
  end)

  it("says what is missing", function()
    local empty = process.directory()
    local nothing = process.run({ Server.program(), "test", "--config", server.directory .. "/appsettings.json" },
      { cwd = empty, env = server:environment() })
    assert.equal(1, nothing.code) -- busted finds no test
    local env = server:environment()
    env.PATH = empty
    local alone = server:command({ "test", server.directory .. "/scripts" }, { env = env })
    assert.equal(1, alone.code)
    assert.matches("install it", alone.errors, 1, true)
  end)

  it("says so when a spec is run by busted alone", function()
    process.write(server.directory .. "/x_spec.lua", PASSES)
    local root = process.run({ "pwd" }).output:gsub("%s+$", "")
    local path = "--lpath=" .. root .. "/scripts/testing/?.lua"
    local alone = process.run({ "busted", "--lua=lua5.4", "--output=TAP", path, server.directory .. "/x_spec.lua" },
      { cwd = server.directory })
    assert.matches("run them with `buildq test`", alone.output .. alone.errors, 1, true)
  end)
end)
