-- Builds: submit, look up, list, change the priority.

local buildq = require "buildq"
local intake = require "intake"
local problem = require "problem"
local reply = require "reply"
local request = require "request"

local queue = buildq.queue

local function accepted_as(result)
  return { status = 202, headers = { Location = "/builds/" .. result.id }, json = result.answer }
end

local function submit(req)
  local body, refusal = reply.body(req)
  if refusal then return refusal end
  local key, faults = request.idempotency_key(req.headers)
  if faults then return problem.faults(faults, "The request") end
  local hash = key and buildq.sha256(buildq.json.encode(body))
  if key then
    local earlier, failure = queue.replay(key, hash)
    if failure then return problem.new(422, failure.message) end
    if earlier then return accepted_as(earlier) end
  end
  local accepted
  accepted, refusal = intake.submission(body, intake.world())
  if not accepted then return refusal end
  local fields = accepted.fields
  fields.id = buildq.uuid()
  fields.requestId = req.id
  fields.answer = { jobId = fields.id, message = "Build queued successfully", estimate = queue.estimate(fields) }
  local missing = #fields.needs > 0 and queue.unmet(fields.needs)
  if missing then
    table.insert(accepted.warnings, { path = "$.manifest.needs",
      message = ("no server offers %s now: the build waits until one does"):format(table.concat(missing, ", ")) })
    buildq.log.warn("a build waits for a server that can take it",
      { build = fields.id, missing = table.concat(missing, ", ") })
  end
  if #accepted.warnings > 0 then fields.answer.warnings = accepted.warnings end
  if key then fields.idempotency = { key = key, hash = hash } end
  local result, failure = queue.enqueue(fields)
  if not result then
    if failure.code == "conflict" then return problem.new(422, failure.message) end
    return problem.from(failure)
  end
  return accepted_as(result)
end

local function show(req)
  local text, failure = queue.get_json(req.params.id)
  if not text then return problem.from(failure) end
  return reply.text_json(text)
end

-- ?metadata.team=web filters by a string, ?metadata={"team":"web","size":3} by any object.
local function metadata_filter(query)
  local wanted, any = {}, false
  for name, value in pairs(query) do
    local key = name:match("^[mM][eE][tT][aA][dD][aA][tT][aA]%.(.+)$")
    if key then
      if not utf8.len(key) or key:find "%z" or not utf8.len(value) or value:find "%z" then
        return nil, { { path = "?metadata", message = "must be UTF-8 without NUL" } }
      end
      wanted[key], any = value, true
    elseif name:lower() == "metadata" then
      local decoded = buildq.json.decode(value)
      if type(decoded) ~= "table" or buildq.json.is_array(decoded) then
        return nil, { { path = "?metadata", message = "must be a JSON object" } }
      end
      for k, v in pairs(decoded) do wanted[k], any = v, true end
    end
  end
  return any and wanted or nil
end

local LIST <const> = {
  status = { type = "status" },
  customerId = { type = "text" },
  limit = { type = "integer", min = 1, max = 500 },
  cursor = { type = "text", max = 500 },
}

local function list(req)
  local options, faults = request.query(req.query, LIST)
  if not options then return problem.faults(faults, "The query") end
  options.metadata, faults = metadata_filter(req.query)
  if faults then return problem.faults(faults, "The query") end
  local page, failure = queue.list(options)
  if not page then return problem.from(failure) end
  return reply.json(page)
end

local function change(req)
  local body, refusal = reply.body(req)
  if refusal then return refusal end
  local priority, faults = request.priority(body)
  if not priority then return problem.faults(faults, "The request") end
  local build, failure = queue.set_priority(req.params.id, priority)
  if not build then return problem.from(failure) end
  return reply.json(build)
end

return {
  { method = "POST", path = "/builds", handle = submit },
  { method = "GET", path = "/builds", handle = list },
  { method = "GET", path = "/builds/{id}", handle = show },
  { method = "PATCH", path = "/builds/{id}", handle = change },
}
