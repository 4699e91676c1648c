-- What can be done to a build: cancel, retry; and a retry in bulk.

local buildq = require "buildq"
local check = require "check"
local problem = require "problem"
local reply = require "reply"
local request = require "request"

local queue = buildq.queue

local function cancel(req)
  local body, refusal = reply.body(req, true)
  if refusal then return refusal end
  local reason, faults = request.reason(body)
  if faults then return problem.faults(faults, "The request") end
  local result, failure = queue.cancel(req.params.id, reason)
  if not result then return problem.from(failure) end
  -- A running build is told to stop; it is cancelled when its processes are gone.
  return reply.json(result, result.status == "building" and 202 or 200)
end

local function retry(req)
  local _, refusal = reply.body(req, true)
  if refusal then return refusal end
  local result, failure = queue.retry(req.params.id)
  if not result then return problem.from(failure) end
  return reply.json(result, 202)
end

local ENDED <const> = { failed = true, cancelled = true, timedout = true }

local function bulk_retry(req)
  local body, refusal = reply.body(req)
  if refusal then return refusal end
  local c = check.new()
  local fields = c:object(body, "$", { "status", "since", "limit" })
  if not fields then return problem.faults(c.faults, "The request") end
  local status = c:text(fields.status, "$.status", { max = 50 })
  if fields.status == nil then
    c:fault("$.status", nil, "is required: failed, cancelled or timedout")
  elseif status and not ENDED[status:lower()] then
    c:fault("$.status", status, "must be failed, cancelled or timedout")
  end
  local since = c:text(fields.since, "$.since", { max = 40 })
  if since and not since:find("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d[%d.]*[Zz+-][%d:]*$") then
    c:fault("$.since", since, "must be a time as in 2026-01-31T12:00:00Z")
  end
  local limit = c:number(fields.limit, "$.limit", 1, 10000)
  if limit and not math.tointeger(limit) then c:fault("$.limit", limit, "must be an integer") end
  if #c.faults > 0 then return problem.faults(c.faults, "The request") end
  return reply.json(queue.bulk_retry {
    status = status:lower(), since = since, limit = limit and math.tointeger(limit) or 1000,
  })
end

return {
  { method = "POST", path = "/builds/{id}/cancel", handle = cancel },
  { method = "POST", path = "/builds/{id}/retry", handle = retry },
  { method = "POST", path = "/builds/retry", handle = bulk_retry },
}
