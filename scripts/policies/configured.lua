-- Retries as the configuration says: MaxRetryAttempts, after RetryDelayMinutes (doubled each time with
-- UseExponentialBackoff, spread by a tenth). Neither what the pipeline called final nor a timeout is tried again.
return {
  ---@param failure buildq.RetryFailure
  ---@return buildq.RetryAnswer
  retry = function(failure)
    if failure.kind == "timeout" then return { retry = false, reason = "it ran out of time" } end
    if not failure.retryable then
      local limited = failure.kind == "limit" or failure.kind == "memory"
      return { retry = false, reason = limited and "it reached a limit, and would again" or "the pipeline said so" }
    end
    if failure.retryCount >= failure.maxRetries then return { retry = false, reason = "all retries are used up" } end
    return { retry = true, after = failure.delaySeconds }
  end,
}
