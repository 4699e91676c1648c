-- The log of a build's attempts, and the list of them.

local buildq = require "buildq"
local problem = require "problem"
local reply = require "reply"
local request = require "request"

local LARGEST <const> = 2 ^ 53 | 0 -- what JavaScript and jq still count exactly

local RULES <const> = {
  attempt = { type = "integer", min = 1, max = 2147483647 },
  offset = { type = "integer", min = 0, max = LARGEST },
  follow = { type = "boolean" },
}

local function log(req)
  local options, faults = request.query(req.query, RULES)
  if not options then return problem.faults(faults, "The query") end
  local build, failure = buildq.queue.get(req.params.id)
  if not build then return problem.from(failure) end
  local attempt = options.attempt or build.attempt
  -- Nothing is written yet: the first attempt can be waited for.
  local waits = options.follow and build.attempt == 0 and build.status == "pending" and attempt <= 1
  if attempt > build.attempt and not waits then
    return problem.new(404, ("Build %s has no attempt %d; its last is %d."):format(build.id, attempt, build.attempt))
  end
  local headers = { ["Cache-Control"] = "no-store", ["X-Build-Attempt"] = tostring(waits and 1 or attempt) }
  if waits then attempt = 0 elseif attempt == 0 then return { status = 200, headers = headers, body = "" } end
  return buildq.response.log_stream {
    build = build.id, attempt = attempt, offset = options.offset or 0, follow = options.follow or false,
    headers = headers,
  }
end

local function attempts(req)
  local list, failure = buildq.queue.attempts(req.params.id)
  if not list then return problem.from(failure) end
  return reply.list("attempts", list)
end

return {
  { method = "GET", path = "/builds/{id}/log", handle = log },
  { method = "GET", path = "/builds/{id}/attempts", handle = attempts },
}
