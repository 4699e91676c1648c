-- The runtime that `buildq test` gives to specs, tested by specs that it runs.
local test = require "buildq.test"

local HELLO <const> = [[
local buildq = require "buildq"
return {
  run = function(build)
    build:step("Writing", { at = 10 }, function()
      buildq.fs.write("hello.txt", "hello " .. build.customer.name .. "\n")
    end)
    build:step("Compiling", { at = 40 }, function()
      local made = build:exec { argv = { "make", "-j4", "all" }, capture = true, env = { MODE = build.tier } }
      buildq.fs.write("made.txt", made.output)
    end)
    build:artifact("hello.txt")
    build:result { provenance = { tool = "make" } }
  end,
}
]]

describe("a pipeline in a test", function()
  before_each(function() test.write("pipelines/hello.lua", HELLO) end)

  it("runs in the real runtime, with files of its own, and its commands are answered by the spec", function()
    test.exec:on("make", { output = "made\n", files = { ["out/a.so"] = "library" } })
    local result = test.run("hello", { customer = { name = "Zoe" }, tier = "basic" })
    assert.build_succeeded(result)
    assert.same({ { name = "Writing", percent = 10 }, { name = "Compiling", percent = 40 } }, result.steps)
    assert.equal("hello Zoe\n", result:read "hello.txt")
    assert.equal("made\n", result:file "made.txt")
    assert.equal("library", result:file "out/a.so")
    assert.has_artifact(result, "hello.txt")
    assert.has_step(result, "Compiling")
    assert.command_ran "make -j4"
    assert.equal("basic", test.exec.calls[1].env.MODE)
    assert.equal("make", result.provenance.tool)
    assert.matches("out| made", result.log, 1, true)
  end)

  it("fails when the spec gives no answer, and says which", function()
    local result = test.run "hello"
    assert.build_failed(result, 'no answer for "make %-j4 all"')
    assert.matches("^scripts/pipelines/hello.lua:8: ", result.message)
  end)

  it("fails as a command's exit code, signal or absence says", function()
    test.exec:on("make", 2)
    assert.build_failed(test.run "hello", "make: exit code 2")
    test.exec:on("make", { signal = 9 })
    assert.build_failed(test.run "hello", "ended by signal 9")
    test.exec:on("make", { error = "not_found", message = "there is no make" })
    assert.build_failed(test.run "hello", "there is no make")
  end)

  it("can ask the spec's function", function()
    test.exec:on("make", function(command) return "in " .. command.env.MODE .. " " .. command.argv[2] end)
    assert.equal("in pro -j4", test.run("hello"):file "made.txt")
  end)

  it("does real commands in the sandbox when told so", function()
    test.write("pipelines/real.lua", [[
      return { run = function(build)
        local echoed = build:exec { argv = { "echo", "real" }, capture = true }
        build:log("it said " .. echoed.output)
      end }]])
    test.exec:real "echo"
    local result = test.run "real"
    assert.build_succeeded(result)
    assert.matches("it said real", result.log, 1, true)
  end)

  it("begins each test with the team's own scripts and without answers", function()
    test.lua "leaked = 1"
    assert.equal(1, test.lua "return leaked")
    test.reset()
    assert.is_nil(test.lua "return leaked")
    assert.equal(0, #test.exec.rules)
    assert.has_error(function() test.run "hello" end,
      "there is no pipeline hello: neither shipped nor in ScriptDirectory")
  end)
end)

describe("the clock", function()
  before_each(function()
    test.write("pipelines/slow.lua", [[
      local buildq = require "buildq"
      return { run = function(build)
        local from, wall = buildq.clock.monotonic(), buildq.clock.unix()
        build:step("Waiting", function() buildq.sleep(600) end)
        build:result { provenance = { waited = buildq.clock.monotonic() - from, wall = buildq.clock.unix() - wall } }
      end }]])
    test.write("pipelines/stuck.lua", [[
      return { run = function(build) build:exec { argv = { "sleeper" }, timeout = build.metadata.limit } end }]])
  end)

  it("lets no spec wait for a sleep", function()
    local began = os.time()
    local result = test.run "slow"
    assert.build_succeeded(result)
    assert.is_true(result.provenance.waited >= 600 and result.provenance.waited < 700)
    assert.is_true(result.provenance.wall >= 600)
    assert.is_true(os.time() - began < 60)
  end)

  it("passes as the spec says", function()
    test.write("pipelines/nap.lua", [[
      local buildq = require "buildq"
      return { run = function(build)
        build:step("Nap", function() buildq.sleep(600) end)
        build:step("Up", function() buildq.sleep(60) end)
      end }]])
    local build = test.start "nap"
    assert.equal("Nap", build:look().step)
    test.clock.advance "9m"
    assert.equal("Nap", build:look().step)
    test.clock.advance "61s"
    assert.equal("Up", build:look().step)
    test.clock.advance "1h"
    assert.equal("success", build:look().status)
    assert.build_succeeded(build:wait())
  end)

  it("ends a command that hangs at its limit", function()
    test.exec:on("sleeper", { hang = true })
    assert.build_failed(test.run("stuck", { metadata = { limit = 300 } }), "time limit of 300 s")
  end)

  it("ends a build at its limit", function()
    test.exec:on("sleeper", { hang = true })
    local build = test.start("stuck")
    test.clock.advance "59m"
    assert.equal("building", build:look().status)
    test.clock.advance "2m"
    local result = build:wait()
    assert.equal("timedout", result.status)
    assert.equal("timeout", result.errorKind)
  end)

  it("refuses what is no time", function()
    assert.has_error(function() test.clock.advance "soon" end,
      "a time is a number of seconds, or like 90s, 5m, 2h, 1d; got soon")
  end)

  it("stops a build as a cancel does", function()
    test.exec:on("sleeper", { hang = true })
    local build = test.start "stuck"
    build:look()
    build:stop("cancelled", "not wanted")
    local result = build:wait()
    assert.equal("cancelled", result.status)
    assert.equal("not wanted", result.message)
  end)
end)

describe("modules, routes and requests", function()
  it("are called in the runtime, and objects stay there", function()
    local check = test.require("check").new()
    check:text(5, "$.name", {})
    assert.equal("$.name", check.faults[1].path)
    assert.equal(3, test.lua("return select('#', ...)", 1, nil, "x"))
    assert.is_nil(test.lua "return io or debug or os.execute")
    assert.has_error(function() test.lua "error('own words', 0)" end, "own words")
  end)

  it("answer HTTP through everything that stands before a route", function()
    test.write("routes/greet.lua", [[
      local http = require("buildq").http
      return { method = "POST", path = "/greet/{name}", handle = function(request)
        local asked = http.request { url = "http://names.example/" .. request.params.name }
        return { status = 201, json = { name = asked.body, sent = request:json().sent, status = asked.status } }
      end }]])
    test.http:on("GET http://names.example/zoe", { status = 203, body = "Zoe", headers = { ["X-Kind"] = "name" } })
    local answer = test.post("/greet/zoe", { sent = { 1, 2 } })
    assert.equal(201, answer.status)
    assert.same({ name = "Zoe", sent = { 1, 2 }, status = 203 }, answer.json)
    assert.equal(1, #test.http.calls)
    assert.equal(415, test.request("POST", "/greet/zoe", "x").status)
    assert.equal(404, test.get("/greet").status)
  end)

  it("pass a route's sleep at once", function()
    test.write("routes/nap.lua", [[
      return { method = "GET", path = "/nap", handle = function()
        require("buildq").sleep(50)
        return { body = "rested" }
      end }]])
    local began = os.time()
    assert.equal("rested", test.get("/nap").body)
    assert.is_true(os.time() - began < 30)
  end)

  it("say which scripts are wrong", function()
    test.write("routes/broken.lua", "return {")
    local ok, message = pcall(test.reload)
    assert.is_false(ok)
    assert.matches("scripts/routes/broken.lua:1", tostring(message))
  end)

  it("have policies called within their budget", function()
    test.write("policies/mine.lua",
      "return { priority = function(build) return { priority = 3, reason = build.tier } end }")
    assert.same({ priority = 3, reason = "gold" }, test.policy("mine", "priority", { tier = "gold" }, {}))
    test.write("policies/mine.lua", "return { priority = function() while true do end end }")
    assert.has_error(function() test.policy("mine", "priority", {}, {}) end)
  end)
end)

describe("a recording", function()
  it("does it really once, and answers from the file then", function()
    local path = os.tmpname()
    os.remove(path)
    test.write("pipelines/dated.lua", [[
      return { run = function(build)
        build:log("at " .. build:exec({ argv = { "date", "+%N" }, capture = true }).output)
        build:exec { shell = "mkdir -p out; printf 'a\\0b' > out/bytes; date +%N > out/text" }
        build:artifact "out/text"
        build:artifact "out/bytes"
      end }]])
    test.record(path)
    local recorded = test.run "dated"
    assert.build_succeeded(recorded)
    local first = recorded.log:match "at (%d+)"
    test.finish()
    test.record(path)
    local played = test.run "dated"
    assert.equal(first, played.log:match "at (%d+)")
    assert.equal(recorded:read "text", played:read "text")
    assert.equal("a\0b", played:read "bytes")
    assert.equal(4, #test.exec.calls)
    test.exec:on("date", "42\n") -- what the spec says goes first
    assert.equal("42", test.run("dated").log:match "at (%d+)")
    os.remove(path)
  end)
end)
