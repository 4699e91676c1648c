local explain = require "explain"

local function now(unix) return "T" .. math.floor(unix) end

local function facts(more)
  local all = {
    build = { id = "b", status = "pending" }, ahead = 0, limit = 10000, slots = 4, running = 0, nodes = 1, now = 1000,
    paused = false, here = { disk = true, sandbox = true, freeMegabytes = 9000, reserveMegabytes = 500 },
    startSeconds = { p50 = 0, p90 = 0 }, endSeconds = { p50 = 60, p90 = 90 }, guesses = 0,
  }
  for name, value in pairs(more or {}) do all[name] = value end
  return all
end

local function answer(more) return explain.answer(facts(more), now) end

local function kinds(more)
  local list = {}
  for index, reason in ipairs(answer(more).heldBackBy) do list[index] = reason.kind end
  return table.concat(list, " ")
end

describe("explain", function()
  it("tells durations as people do", function()
    for seconds, text in pairs { [0] = "0 s", [0.4] = "0 s", [59.4] = "59 s", [60] = "1 min", [150] = "2 min",
      [3600] = "1 h", [7500] = "2 h 5 min", [86400] = "1 d", [100000] = "1 d 3 h", [-5] = "0 s" } do
      assert.equal(text, explain.duration(seconds))
    end
  end)

  it("has nothing against a build that can start", function()
    local result = answer()
    assert.same({}, result.heldBackBy)
    assert.equal(1, result.position)
    assert.equal("nothing holds it back: it starts at any moment", result.summary)
    assert.same({ p50 = 0, p90 = 0, p50At = "T1000", p90At = "T1000", atLeast = false }, result.start)
    assert.equal("T1060", result["end"].p50At)
  end)

  it("names slots when the builds before it fill what is free", function()
    assert.equal("", kinds { running = 3, ahead = 0 })
    assert.equal("slots", kinds { running = 4, ahead = 0 })
    assert.equal("slots", kinds { running = 3, ahead = 1 })
    assert.equal("", kinds { running = 1, ahead = 2 })
    assert.equal("slots", kinds { running = 1, ahead = 3 })
    assert.truthy(answer({ running = 4 }).summary:find("it is the next", 1, true))
    assert.truthy(answer({ running = 4, ahead = 1 }).summary:find("1 build before it", 1, true))
  end)

  it("names a pause, servers, disk, sandbox and a retry's time", function()
    local here = { disk = false, sandbox = false, freeMegabytes = 3, reserveMegabytes = 500 }
    assert.equal("pause nodes disk retry slots",
      kinds { paused = true, pauseReason = "x", here = here, retrySeconds = 90, running = 4 })
    assert.equal("nodes", kinds { nodes = 0, slots = 0 })
    local retry = answer { retrySeconds = 90, build = { id = "b", status = "pending", nextAttemptAt = "then" } }
    assert.equal("then", retry.heldBackBy[1]["until"])
    assert.is_nil(retry.position)
  end)

  it("names a quota that took a build with a lower priority", function()
    local build = { id = "b", status = "pending", priority = 0, policyReason = "5 builds of this customer run already" }
    assert.equal("quota slots", kinds { build = build, askedPriority = 2, running = 4 })
    assert.matches("5 builds of this customer", answer({ build = build, askedPriority = 2 }).heldBackBy[1].message)
    assert.equal("", kinds { build = build, askedPriority = 0 })
  end)

  it("says no position beyond what was looked at", function()
    local result = answer { ahead = 10001, running = 4 }
    assert.equal("10000+", result.positionText)
    assert.is_true(result.aheadCapped)
    assert.is_true(result.start.atLeast)
    assert.truthy(result.summary:find("should not start within", 1, true))
    assert.truthy(result.summary:find("10000 builds or more before it", 1, true))
  end)

  it("has little to say of a build that runs or has ended", function()
    local running = answer { build = { id = "b", status = "building" }, elapsed = 30 }
    assert.truthy(running.summary:find("running since 30 s and should end in 1 min", 1, true))
    assert.is_nil(running.start)
    assert.equal("it has failed", answer({ build = { id = "b", status = "failed" }, endSeconds = nil }).summary)
  end)
end)
