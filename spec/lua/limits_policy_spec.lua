-- The shipped admission policy with limits filled in: a pure function, so it is simply called.
local process = require "spec.support.process"

local SOURCE <const> = process.read "scripts/policies/limits.lua"

-- The policy with these lines of its tables, each as it stands behind the comment's dashes.
local function limits(...)
  local text = SOURCE
  for _, line in ipairs { ... } do
    local name = line:match "^%w+"
    local count
    text, count = text:gsub("%-%- " .. name .. " = [^\n]*", line .. ",", 1)
    assert(count == 1, name)
  end
  return assert(load(text, "limits"))()
end

local function at(text)
  local year, month, day, hour, minute, second = text:match "(%d+)-(%d+)-(%d+) (%d+):(%d+):(%d+)"
  local days = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
  local since = 0
  for y = 1970, year - 1 do since = since + ((y % 4 == 0 and y % 100 ~= 0 or y % 400 == 0) and 366 or 365) end
  for m = 1, month - 1 do since = since + days[m] + (m == 2 and year % 4 == 0 and 1 or 0) end
  return (((since + day - 1) * 24 + hour) * 60 + minute) * 60 * 1000000 + second * 1000000
end

local build = { tier = "standard", customerId = "c", priority = 1, metadata = {} }

describe("limits", function()
  it("asks for nothing and accepts everything as shipped", function()
    local policy = limits()
    assert.same({}, policy.facts.admission)
    assert.same({ action = "accept" }, policy.admission(build, {}))
  end)

  it("asks for what its limits need", function()
    assert.same({ "customer" }, limits("running = 1").facts.admission)
    assert.same({ "customerUsage" }, limits("month = 1").facts.admission)
    assert.same({ "tierUsage" }, limits("standard = { today = 1 }").facts.admission)
    assert.same({ "disk" }, limits("spareMegabytes = 1").facts.admission)
  end)

  it("says of a quota when there is more of it", function()
    local daily, monthly = limits("today = 2"), limits("month = 2")
    local function seconds(policy, now, used)
      local answer = policy.admission(build, { customerUsage = { today = used, month = used }, now = at(now) })
      return answer.action == "refuse" and answer.status == 429 and answer.retryAfter or answer.action
    end
    assert.equal("accept", seconds(daily, "2026-03-01 12:00:00", 1))
    assert.equal(12 * 3600, seconds(daily, "2026-03-01 12:00:00", 2))
    assert.equal(1, seconds(daily, "2026-12-31 23:59:59", 3))
    assert.equal(86400, seconds(daily, "2026-03-01 00:00:00", 2))
    assert.equal("accept", seconds(monthly, "2026-02-28 00:00:00", 1))
    assert.equal(86400, seconds(monthly, "2026-02-28 00:00:00", 2))
    assert.equal(2 * 86400, seconds(monthly, "2028-02-28 00:00:00", 2))
    assert.equal(31 * 86400, seconds(monthly, "2026-12-01 00:00:00", 2))
    assert.equal(1, seconds(monthly, "2026-12-31 23:59:59", 2))
  end)

  it("counts a tier's quota for that tier only", function()
    local policy = limits("standard = { month = 5 }")
    local facts = { tierUsage = { today = 5, month = 5 }, now = at "2026-03-01 12:00:00" }
    assert.equal("Monthly quota used up", policy.admission(build, facts).title)
    assert.equal("accept", policy.admission({ tier = "pro", metadata = {} }, facts).action)
  end)

  it("keeps room on the disk for what a build of the pipeline needs", function()
    local policy = limits("spareMegabytes = 100")
    local function action(free, predicted)
      local disk = { freeMegabytes = free, reserveMegabytes = 50, predictedMegabytes = predicted }
      return policy.admission(build, { disk = disk, now = 0 }).action
    end
    assert.equal("accept", action(150, 0))
    assert.equal("refuse", action(149, 0))
    assert.equal("refuse", action(1149, 1000))
    assert.equal("accept", action(1150, 1000))
    assert.equal("accept", policy.admission(build, { now = 0 }).action) -- nothing is known of the disk
  end)

  it("takes what comes beyond the running builds with the lowest priority", function()
    local policy = limits("pending = 10", "running = 2")
    local function answer(pending, running)
      return policy.admission(build, { customer = { pending = pending, running = running }, now = 0 })
    end
    assert.equal("accept", answer(9, 1).action)
    assert.equal("lower", answer(9, 2).action)
    assert.equal(0, answer(9, 2).priority)
    assert.equal("refuse", answer(10, 0).action)
  end)
end)
