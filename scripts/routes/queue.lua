-- The queue as a whole: statistics, pause and resume.

local buildq = require "buildq"
local problem = require "problem"
local reply = require "reply"
local request = require "request"

local queue = buildq.queue

local function statistics()
  return reply.json(queue.statistics())
end

local function control()
  return reply.json(queue.control())
end

local function pause(req)
  local body, refusal = reply.body(req)
  if refusal then return refusal end
  local reason, faults = request.reason(body, true)
  if not reason then return problem.faults(faults, "The request") end
  return reply.json(queue.pause(reason))
end

local function resume(req)
  local _, refusal = reply.body(req, true)
  if refusal then return refusal end
  return reply.json(queue.resume())
end

return {
  { method = "GET", path = "/builds/statistics", handle = statistics },
  { method = "GET", path = "/queue", handle = control },
  { method = "POST", path = "/queue/pause", handle = pause },
  { method = "POST", path = "/queue/resume", handle = resume },
}
