-- The policy @NAME@. It is used for the hooks that policies/active.lua gives it: { retry = "@NAME@", … }.
-- Hooks are pure functions of their arguments: no clock, no chance, no database, nothing to wait for; 20 ms a call.
-- All hooks and what they are given: scripts/README.md ("Policies"), and lib/buildq.d.lua for your editor.

-- Words in a failure's message after which trying again helps.
local TEMPORARY <const> = { "connection reset", "could not resolve", "timed out" }

---Whether, and when, a failed build is tried again.
---@param failure buildq.RetryFailure
---@return buildq.RetryAnswer
local function retry(failure)
  if failure.retryCount >= failure.maxRetries then return { retry = false, reason = "all retries are used up" } end
  for _, words in ipairs(TEMPORARY) do
    if failure.message:lower():find(words, 1, true) then
      return { retry = true, after = 30, reason = "looks temporary: " .. words }
    end
  end
  if not failure.retryable then return { retry = false, reason = "the pipeline said so" } end
  return { retry = true, after = failure.delaySeconds }
end

---Where a build stands among those that wait: 0 (low) to 3 (critical).
---@param build buildq.PolicyBuild
---@return buildq.PriorityAnswer
local function priority(build)
  if build.tier == "enterprise" and build.priority < 2 then return { priority = 2, reason = "tier enterprise" } end
  return {} -- as asked
end

return { retry = retry, priority = priority }
