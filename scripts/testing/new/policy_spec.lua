-- buildq test @DIRECTORY@/@NAME@_spec.lua
local test = require "buildq.test"

local function failure(fields)
  local all = { message = "make: exit code 2", retryable = true, retryCount = 0, maxRetries = 3, delaySeconds = 300 }
  for name, value in pairs(fields) do all[name] = value end
  return all
end

describe("the policy @NAME@", function()
  it("tries again as configured", function()
    assert.same({ retry = true, after = 300 }, test.policy("@NAME@", "retry", failure {}))
  end)

  it("tries again soon what looks temporary", function()
    local answer = test.policy("@NAME@", "retry", failure { message = "curl: Connection reset by peer" })
    assert.is_true(answer.retry)
    assert.equal(30, answer.after)
  end)

  it("ends what was tried often enough, and what the pipeline calls final", function()
    assert.is_false(test.policy("@NAME@", "retry", failure { retryCount = 3 }).retry)
    assert.is_false(test.policy("@NAME@", "retry", failure { retryable = false }).retry)
  end)

  it("lets a tier go first", function()
    assert.equal(2, test.policy("@NAME@", "priority", { tier = "enterprise", priority = 1 }, {}).priority)
    assert.same({}, test.policy("@NAME@", "priority", { tier = "pro", priority = 1 }, {}))
  end)
end)
