-- The shipped retry policies: pure functions, so they are simply called.
local function policy(name) return dofile(("scripts/policies/%s.lua"):format(name)).retry end

local function failure(more)
  local given = {
    message = "make: *** [all] Error 2", kind = "step", retryable = true, attempt = 1, retryCount = 0, maxRetries = 3,
    delaySeconds = 300, random = 0.5, history = {},
  }
  for key, value in pairs(more) do given[key] = value end
  return given
end

describe("configured", function()
  local retry = policy "configured"

  it("retries after the configured delay until retries are used up", function()
    assert.same({ retry = true, after = 300 }, retry(failure {}))
    assert.is_true(retry(failure { retryCount = 2 }).retry)
    assert.is_false(retry(failure { retryCount = 3 }).retry)
    assert.is_false(retry(failure { retryable = false }).retry)
    assert.is_false(retry(failure { kind = "timeout" }).retry)
  end)
end)

describe("smart", function()
  local retry = policy "smart"

  it("retries soon what looks like the network, later each time, spread by chance", function()
    local first = retry(failure { message = "curl: (6) Could not resolve host: example.org" })
    assert.is_true(first.retry)
    assert.equal(20, first.after)
    assert.matches("could not resolve", first.reason)
    local message = "Connection reset by peer"
    assert.equal(40, retry(failure { message = message, retryCount = 1 }).after)
    assert.is_true(retry(failure { message = message, random = 0 }).after < 20)
    assert.is_true(retry(failure { message = message, maxRetries = 99, retryCount = 50, random = 1 }).after <= 900)
    assert.is_false(retry(failure { message = message, retryCount = 3 }).retry)
  end)

  it("never retries what a compiler said", function()
    for _, message in ipairs { "main.c:3:1: error: expected ';'", "ld: undefined reference to `f'" } do
      local answer = retry(failure { message = message })
      assert.is_false(answer.retry, message)
      assert.matches("would fail again", answer.reason)
    end
  end)

  it("leaves the rest to the configuration, and retries infrastructure though the pipeline can't say so", function()
    assert.same({ retry = true, after = 300 }, retry(failure {}))
    assert.is_false(retry(failure { retryable = false }).retry)
    assert.is_true(retry(failure { retryable = false, kind = "infrastructure" }).retry)
  end)
end)
