-- The command line against a real server.
local json = require "dkjson"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local MANIFEST <const> = { version = "1.0", name = "cli", tier = "pro", architecture = "linux-x64",
  cloudTargets = { { provider = "aws" } } }

describe("commands", function()
  local server

  local function command(...)
    return server:command { ... }
  end

  -- With the server's address.
  local function ask(name, ...)
    return command(name, "--server", "http://" .. server.address, ...)
  end

  local function enqueue(pipeline, ...)
    return ask("enqueue", "--customer-id", "c1", "--customer-name", "C", "--customer-email", "c@example.org",
      "--configuration", "cli", "--manifest", server.directory .. "/manifests/m.json", "--pipeline", pipeline, ...)
  end

  setup(function()
    server = Server.start {
      config = { BuildQueue = { MaxRetryAttempts = 0, MaxConcurrentBuilds = 2 } },
      manifests = { ["m.json"] = MANIFEST },
      scripts = builds.scripts {
        ["pipelines/failing.lua"] = 'return { run = function(build) build:fail "as asked" end }',
      },
    }
  end)

  teardown(function()
    if server then server:stop() end
  end)

  it("queue a build and follow it to its end", function()
    local done = enqueue("quick", "--follow")
    assert.equal(0, done.code, done.errors)
    assert.truthy(done.output:find("success 100% Build complete", 1, true), done.output)
    local failed = enqueue("failing", "--follow")
    assert.equal(6, failed.code)
    assert.truthy(failed.errors:find("as asked", 1, true), failed.errors)
  end)

  it("take an idempotency key", function()
    local first = enqueue("quick", "--idempotency-key", "cli-1")
    local second = enqueue("quick", "--idempotency-key", "cli-1")
    assert.equal(0, second.code, second.errors)
    assert.equal(first.output, second.output)
  end)

  it("name every fault of a request", function()
    local answer = ask("enqueue", "--customer-id", "c1")
    assert.equal(1, answer.code)
    assert.truthy(answer.errors:find("customerEmail", 1, true), answer.errors)
    assert.truthy(answer.errors:find("configurationName", 1, true), answer.errors)
  end)

  it("show one build, many, and a log", function()
    local id = enqueue("quick", "--follow").output:match "^(%S+)"
    local status = ask("status", id)
    assert.truthy(status.output:find("status                success", 1, true), status.output)
    assert.equal("success", json.decode(ask("status", id, "--json").output).status)
    assert.truthy(ask("list", "--status", "success").output:find(id, 1, true))
    assert.falsy(ask("list", "--status", "failed").output:find(id, 1, true))
    assert.truthy(ask("logs", id).output:find("sys| quick", 1, true))
    assert.equal(4, ask("status", "00000000-0000-7000-8000-000000000000").code)
  end)

  it("cancel and retry", function()
    local id = enqueue("gate").output:match "^(%S+)"
    builds.await(server, id, "building")
    assert.equal(0, ask("cancel", id, "--reason", "enough").code)
    builds.await(server, id, "cancelled")
    assert.equal(5, ask("cancel", id).code)
    assert.equal(0, ask("retry", id).code)
    builds.await(server, id, "building")
    builds.open_gate(server, id, 2)
    builds.await(server, id, "success")
    local failed = enqueue("failing").output:match "^(%S+)"
    builds.await(server, failed, "failed")
    local many = ask("retry", "--status", "failed", "--since", "1h", "--json")
    assert.truthy(json.decode(many.output).count >= 1, many.output)
    assert.equal(2, ask("retry", "--status", "failed", "--since", "soon").code)
  end)

  it("pause, resume and show figures", function()
    assert.equal(0, ask("pause", "--reason", "spec").code)
    assert.truthy(ask("stats").output:find("paused           spec", 1, true))
    assert.equal(0, ask("resume").code)
    assert.falsy(ask("stats").output:find("paused", 1, true))
  end)

  it("say when no server answers", function()
    local answer = command("stats", "--server", "http://127.0.0.1:1")
    assert.equal(3, answer.code)
    assert.truthy(answer.errors:find("no answer from http://127.0.0.1:1", 1, true), answer.errors)
  end)

  it("check scripts and manifests, all faults at once", function()
    assert.equal(0, command("check").code)
    server:write("manifests", { ["broken.json"] = { version = "7", name = 3 } })
    local answer = command("check")
    assert.equal(1, answer.code)
    assert.truthy(answer.errors:find("broken.json", 1, true), answer.errors)
    assert.truthy(answer.errors:find("$.name", 1, true), answer.errors)
    process.check { "rm", server.directory .. "/manifests/broken.json" }
  end)

  it("bring the schema up to date and ask before the old service's builds go", function()
    assert.equal(0, command("migrate").code)
    server:sql "update queue_control set adopted_builds = 7, retention_allowed = false"
    assert.truthy(command("retention", "show").output:find('"adoptedBuilds": 7', 1, true))
    assert.equal(1, command("retention", "confirm", "8").code)
    assert.equal("f", server:sql "select retention_allowed from queue_control")
    assert.equal(0, command("retention", "confirm", "7").code)
    assert.equal("t", server:sql "select retention_allowed from queue_control")
  end)

  it("write a configuration that loads, and help that names the near", function()
    local example = command("config", "init")
    process.write(server.directory .. "/example.json", example.output)
    assert.equal(0, server:command({ "config", "show", "--config", server.directory .. "/example.json" }).code)
    local near = command "sttaus"
    assert.equal(2, near.code)
    assert.truthy(near.errors:find("did you mean status", 1, true), near.errors)
  end)
end)
