-- Schedules: what the policy lists, checked; and the round that enqueues what is due.
--
-- The server runs a round at each occurrence and every few seconds. Which server takes an occurrence is decided by its
-- row in SQL; a build goes through the same intake as POST /builds.

local buildq = require "buildq"
local check = require "check"
local cron = require "cron"
local intake = require "intake"

local schedule = {
  ---@type {name: string, message: string}[] entries of the policy's list that this server could not use
  faults = {},
}

local MOST <const> = 1000 -- schedules of one generation
local MISSED <const> = { skip = true, latest = true, all = true }
local NAMES <const> = { "name", "cron", "zone", "missed", "request" }

---@class Schedule
---@field name string lower-case letters, digits, - and _, 64 at most
---@field cron string as crontab(5): "30 2 * * mon-fri", "@daily"
---@field zone? string an IANA time zone, "Europe/Berlin"; "UTC"
---@field missed? "skip"|"latest"|"all" what becomes of occurrences that nobody took in time; "skip"
---@field request table the body of POST /builds

-- One entry of the policy's list as SQL keeps it, or nil and a sentence.
local function read(entry)
  local c = check.new()
  local given = c:object(entry, "$", NAMES, function(path) c:fault(path, nil, "is not known") end)
  if not given then return nil, "an entry must be a table {name=, cron=, request=}" end
  if type(given.name) ~= "string" or not given.name:find "^[%l%d_-]+$" or #given.name > 64 then
    return nil, "a schedule's name has lower-case letters, digits, - and _ only, 64 at most"
  end
  local zone, missed = given.zone or "UTC", given.missed or "skip"
  if #c.faults > 0 then return nil, c.faults[1].path:sub(3) .. " " .. c.faults[1].message end
  local fields, message = cron.parse(given.cron)
  if not fields then return nil, message end
  if type(zone) ~= "string" or not zone:find "^[%w_+/-]+$" then
    return nil, "zone must be the name of a time zone, as Europe/Berlin"
  end
  if not MISSED[missed] then return nil, 'missed must be "skip", "latest" or "all"' end
  if not check.is_object(given.request) then return nil, "request must be a table, the body of POST /builds" end
  return { name = given.name, cron = given.cron, zone = zone, missed = missed, fields = fields,
    request = given.request }
end

--- Checks a policy's list.
---@param list any
---@return table[] entries that are right
---@return {name: string, message: string}[] faults
function schedule.read(list)
  local entries, faults, seen = {}, {}, {}
  if type(list) ~= "table" or (next(list) ~= nil and not check.is_array(list)) then
    return entries, { { name = "?", message = "the schedule policy must return a list" } }
  end
  for index, item in ipairs(list) do
    local entry, message = read(item)
    if entry and seen[entry.name] then entry, message = nil, "there are two schedules of this name" end
    if entry and #entries == MOST then entry, message = nil, ("there are more than %d schedules"):format(MOST) end
    if entry then
      seen[entry.name] = true
      entries[#entries + 1] = entry
    else
      local name = type(item) == "table" and type(item.name) == "string" and item.name or "entry " .. index
      faults[#faults + 1] = { name = name, message = message }
    end
  end
  return entries, faults
end

--- For a policy's own check(): raises when an entry is wrong.
function schedule.check(list)
  local _, faults = schedule.read(list)
  if #faults > 0 then error(("%s: %s"):format(faults[1].name, faults[1].message), 0) end
end

local function tell_skipped(skipped)
  for _, entry in ipairs(skipped) do
    buildq.log.warn("occurrences of a schedule don't run", { schedule = entry.name, first = entry.occurrence,
      last = entry.through, count = entry.occurrences, reason = entry.reason })
  end
end

-- A refusal by the database is a fault of ours.
local function sure(answer, failure)
  return answer or error(failure.message, 0)
end

local function take_over()
  local list, failure = buildq.schedule.wanted()
  if not list then
    schedule.faults = { { name = "?", message = failure.message } }
    return buildq.log.error("the schedule policy failed: the old schedules stay", { error = failure.message })
  end
  local entries, faults = schedule.read(list)
  local answer = sure(buildq.schedule.sync(buildq.json.array(entries)))
  for _, fault in ipairs(answer.faults) do faults[#faults + 1] = fault end
  for _, fault in ipairs(faults) do
    buildq.log.error("a schedule is not used", { schedule = fault.name, error = fault.message })
  end
  schedule.faults = faults
  tell_skipped(answer.skipped)
end

-- The body of a scheduled build's request: what it was made by can be looked for in its metadata.
local function body_of(run)
  local body = {}
  for name, value in pairs(run.request) do body[name] = value end
  local metadata = {}
  if check.is_object(body.metadata) then
    for name, value in pairs(body.metadata) do metadata[name] = value end
  end
  metadata.schedule = metadata.schedule or run.name
  metadata.scheduledFor = metadata.scheduledFor or run.occurrence
  body.metadata = metadata
  return body
end

--- Enqueues a claimed occurrence and records what became of it. Raises only while the database is away: the claim then
--- stays, and is finished a minute later with the same build.
---@param run {name: string, occurrence: string, buildId: string, request: table}
---@return EnqueueResult? result
---@return Response? refusal a problem document
function schedule.enqueue(run)
  local accepted, refusal = intake.submission(body_of(run), intake.world())
  local result, failure
  if accepted then
    local fields = accepted.fields
    fields.id = run.buildId
    fields.requestId = "schedule:" .. run.name
    fields.answer = { jobId = fields.id, message = "Build queued successfully" }
    result, failure = buildq.queue.enqueue(fields)
    if not result then refusal = require("problem").from(failure) end
  end
  if result then
    buildq.schedule.settle(run.name, run.occurrence, "enqueued")
    buildq.log.info("a schedule has enqueued a build", { schedule = run.name, occurrence = run.occurrence,
      build = run.buildId })
    return result
  end
  local reason = refusal.json.detail
  buildq.schedule.settle(run.name, run.occurrence, "refused", reason)
  buildq.log.error("a schedule's build was refused", { schedule = run.name, occurrence = run.occurrence,
    reason = reason })
  return nil, refusal
end

--- What the server calls.
---@param changed boolean the policy's list is to be taken over first
---@return number? seconds until the next occurrence
function schedule.round(changed)
  if changed then take_over() end
  local work = sure(buildq.schedule.claim())
  tell_skipped(work.skipped)
  for _, run in ipairs(work.runs) do schedule.enqueue(run) end
  return check.present(work.waitSeconds)
end

return schedule
