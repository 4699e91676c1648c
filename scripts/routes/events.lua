-- Server-sent events: of one build, replayed from its history, or of all builds of a customer.

local buildq = require "buildq"
local problem = require "problem"
local request = require "request"

local function of_build(req)
  local after = req.headers["last-event-id"] or req.query.after
  local options, faults = request.query({ after = after }, {
    after = { type = "integer", min = 0, max = math.maxinteger },
  })
  if not options then return problem.faults(faults, "The request") end
  local build, failure = buildq.queue.get(req.params.id)
  if not build then return problem.from(failure) end
  return buildq.response.event_stream { build = build.id, after = options.after or 0 }
end

local function of_customer(req)
  local options, faults = request.query(req.query, { customerId = { type = "text", required = true } })
  if not options then return problem.faults(faults, "The query") end
  return buildq.response.event_stream { customer = options.customerId }
end

return {
  { method = "GET", path = "/builds/{id}/events", handle = of_build },
  { method = "GET", path = "/events", handle = of_customer },
}
