-- For load balancers and monitoring: is the process there, can it work, and the metrics.

local buildq = require "buildq"
local problem = require "problem"
local reply = require "reply"

local function off()
  return problem.new(404, "Health checks are turned off (BuildQueue.EnableHealthChecks).")
end

local function alive()
  if not buildq.config.EnableHealthChecks then return off() end
  return reply.json { status = "ok" }
end

local function ready()
  if not buildq.config.EnableHealthChecks then return off() end
  local health = buildq.queue.health()
  local response = reply.json(health, health.ready and 200 or 503)
  if not health.ready then response.headers["Retry-After"] = "5" end
  return response
end

local function metrics()
  return {
    status = 200,
    headers = { ["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8", ["Cache-Control"] = "no-store" },
    body = buildq.queue.metrics(),
  }
end

return {
  { method = "GET", path = "/healthz", handle = alive },
  { method = "GET", path = "/readyz", handle = ready },
  { method = "GET", path = "/metrics", handle = metrics },
}
