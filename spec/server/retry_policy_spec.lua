-- Retry policies on a running server: what they say is done, and a broken one stops nothing.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

local server

-- Makes a retry hook with this body the active one.
local function policy(body)
  local before = server:get("/readyz").json.generation
  server:write("scripts", {
    ["policies/mine.lua"] =
      ("return { facts = { retry = { 'history' } }, retry = function(failure)\n%s\nend }"):format(body),
    ["policies/active.lua"] = "return { retry = 'mine' }",
  })
  server:wait_for(function() return server:get("/readyz").json.generation ~= before end, 10, "the policy")
end

local function failures()
  return tonumber(server:get("/metrics").body:match('buildq_policy_failures_total{hook="retry"} (%d+)') or 0)
end

setup(function()
  server = Server.start {
    config = { BuildQueue = { MaxRetryAttempts = 1, RetryDelayMinutes = 60, LuaCpuSeconds = 1,
      LuaMemoryMegabytes = 16 } },
    scripts = builds.scripts {
      ["pipelines/fails.lua"] = [[return { run = function(build) build:fail(build.metadata.message or "boom") end }]],
      ["pipelines/memory.lua"] = [[return { run = function() local t = {} while true do t[#t + 1] = {} end end }]],
      ["pipelines/limit.lua"] = [[return { run = function() while true do end end }]],
      ["pipelines/step.lua"] = [[return { run = function(build) build:exec { argv = { "false" } } end }]],
      ["pipelines/killed.lua"] = [[return { run = function(build)
        build:exec { argv = { "sh", "-c", build.metadata.line } }
      end }]],
      ["pipelines/infrastructure.lua"] = [[return { run = function()
        require("buildq").http.request { url = "http://127.0.0.1:1/" }
      end }]],
    },
  }
end)

teardown(function()
  if server then server:stop() end
end)

describe("a retry policy", function()
  it("says whether, and when", function()
    policy [[
      if failure.message:find("never", 1, true) then return { retry = false, reason = "it said never" } end
      return { retry = failure.attempt < 3, after = 0.05, reason = #failure.history .. " attempts" }
    ]]
    local never = builds.run(server, { pipeline = "fails", metadata = { message = "never again" } }, "failed")
    assert.equal(1, never.attempt)
    assert.equal("never again", never.errorMessage)
    local again = builds.run(server, { pipeline = "fails" }, "failed")
    assert.equal(3, again.attempt) -- MaxRetryAttempts is 1 and the delay an hour: the policy decided otherwise
    assert.truthy(server:log():find("3 attempts", 1, true))
    assert.equal(0, failures())
  end)

  it("is told what kind of failure it was", function()
    policy "return { retry = false, reason = 'of the kind ' .. failure.kind .. ' ' .. tostring(failure.retryable) }"
    for kind, retryable in pairs { memory = false, limit = false, step = true, infrastructure = true } do
      builds.run(server, { pipeline = kind }, "failed")
      assert.truthy(server:log():find(("of the kind %s %s"):format(kind, retryable), 1, true), kind)
    end
  end)

  it("is told when a command got no memory", function()
    policy "return { retry = false, reason = 'for ' .. failure.kind .. ' ' .. tostring(failure.retryable) }"
    for _, line in ipairs { "kill -9 $$", "echo 'gcc: fatal error: Killed signal terminated program cc1'; exit 1" } do
      local from = #server:log()
      local build = builds.run(server, { pipeline = "killed", metadata = { line = line } }, "failed")
      assert.truthy(build.errorMessage:find("has no more memory for it", 1, true), build.errorMessage)
      assert.truthy(server:log():find("for memory true", from, true), server:log():sub(from))
    end
    local build = builds.run(server, { pipeline = "killed", metadata = { line = "kill -15 $$" } }, "failed")
    assert.is_nil(build.errorMessage:find("memory", 1, true), build.errorMessage)
  end)

  it("that fails leaves the decision to the configuration, and is counted", function()
    policy "return failure.none.x"
    local id = builds.submit(server, { pipeline = "fails" })
    local build = server:wait_for(function()
      local now = server:get("/builds/" .. id).json
      return now.retryCount == 1 and now
    end, 10)
    assert.equal("pending", build.status)
    assert.truthy(build.nextAttemptAt)
    assert.equal(1, failures())
    assert.truthy(server:log():find("scripts/policies/mine.lua:2: ", 1, true))
  end)

  it("that does not exist is refused at the reload", function()
    local before = server:get("/readyz").json.generation
    server:write("scripts", { ["policies/active.lua"] = "return { retry = 'mime' }" })
    local health = server:wait_for(function()
      local now = server:get("/readyz").json
      return now.status ~= "ok" and now
    end, 10, "the fault")
    assert.equal(before, health.generation)
    assert.truthy(server:get("/readyz").body:find("there is no scripts/policies/mime.lua", 1, true))
  end)
end)
