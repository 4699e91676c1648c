-- Retries by what went wrong: what looks like the network or a crowded machine soon, with jitter; what a compiler or a
-- check has said never, since it would say the same again; everything else as configured.

local NETWORK <const> = {
  "could not resolve", "connection refused", "connection reset", "connection timed out", "network is unreachable",
  "temporary failure", "tls handshake", "too many requests", "service unavailable", "bad gateway", "gateway time",
  "unexpected eof", "early eof", "no route to host", "timed out",
}

local FINAL <const> = {
  "error:", "undefined reference", "syntax error", "compilation terminated", "cannot find module", "no such file",
  "permission denied", "manifest", "not found: http 404",
}

local SOON_SECONDS <const> = 20
local LONGEST_SOON_SECONDS <const> = 600

local function says(message, words)
  local lower = message:lower()
  for _, word in ipairs(words) do
    if lower:find(word, 1, true) then return word end
  end
  return nil
end

-- 20 s, 40 s, 80 s … spread over half to one and a half, so that many builds don't come back at once.
local function soon(failure)
  local seconds = math.min(SOON_SECONDS * 2 ^ failure.retryCount, LONGEST_SOON_SECONDS)
  return seconds * (0.5 + failure.random)
end

return {
  ---@param failure buildq.RetryFailure
  ---@return buildq.RetryAnswer
  retry = function(failure)
    if failure.retryCount >= failure.maxRetries then return { retry = false, reason = "all retries are used up" } end
    if failure.kind == "infrastructure" then
      return { retry = true, after = soon(failure), reason = "the machine or the database was in trouble" }
    end
    if failure.kind == "timeout" then return { retry = false, reason = "it ran out of time" } end
    if not failure.retryable then
      local limited = failure.kind == "limit" or failure.kind == "memory"
      return { retry = false, reason = limited and "it reached a limit, and would again" or "the pipeline said so" }
    end
    local word = says(failure.message, NETWORK)
    if word then return { retry = true, after = soon(failure), reason = "looks like the network: " .. word } end
    word = says(failure.message, FINAL)
    if word then return { retry = false, reason = ("would fail again: %s"):format(word) } end
    return { retry = true, after = failure.delaySeconds }
  end,
}
