-- Schedules: list, look at, run, pause, resume.

local buildq = require "buildq"
local problem = require "problem"
local reply = require "reply"
local request = require "request"
local schedule = require "schedule"

local function unknown(name)
  return problem.new(404, ("There is no schedule %s."):format(name))
end

local function list()
  return reply.json { schedules = buildq.json.array(buildq.schedule.list()),
    faults = buildq.json.array(schedule.faults) }
end

local SHOW <const> = {
  next = { type = "integer", min = 0, max = 1000 },
  runs = { type = "integer", min = 0, max = 1000 },
}

local function show(req)
  local options, faults = request.query(req.query, SHOW)
  if not options then return problem.faults(faults, "The query") end
  local found = buildq.schedule.show(req.params.name, options.next or 10, options.runs or 20)
  return found and reply.json(found) or unknown(req.params.name)
end

local function run(req)
  local _, refusal = reply.body(req, true)
  if refusal then return refusal end
  local claimed = buildq.schedule.begin(req.params.name)
  if not claimed then return unknown(req.params.name) end
  local result
  result, refusal = schedule.enqueue(claimed)
  if not result then return refusal end
  return { status = 202, headers = { Location = "/builds/" .. result.id }, json = result.answer }
end

local function pause(req)
  local body, refusal = reply.body(req)
  if refusal then return refusal end
  local reason, faults = request.reason(body, true)
  if not reason then return problem.faults(faults, "The request") end
  local found = buildq.schedule.pause(req.params.name, reason)
  return found and reply.json(found) or unknown(req.params.name)
end

local function resume(req)
  local _, refusal = reply.body(req, true)
  if refusal then return refusal end
  local found = buildq.schedule.resume(req.params.name)
  return found and reply.json(found) or unknown(req.params.name)
end

return {
  { method = "GET", path = "/schedules", handle = list },
  { method = "GET", path = "/schedules/{name}", handle = show },
  { method = "POST", path = "/schedules/{name}/run", handle = run },
  { method = "POST", path = "/schedules/{name}/pause", handle = pause },
  { method = "POST", path = "/schedules/{name}/resume", handle = resume },
}
