-- Checks what clients send: bodies, query parameters, headers. Pure Lua: it needs no server.

local check = require "check"

local request = {}

request.priorities = { low = 0, normal = 1, high = 2, critical = 3 }
request.statuses = { pending = true, building = true, success = true, failed = true, cancelled = true, timedout = true }

-- Characters, as the columns of build_queue count them.
local TEXTS <const> = {
  { name = "customerId", max = 255, required = true }, { name = "customerName", max = 255, required = true },
  { name = "customerEmail", max = 254, required = true }, { name = "configurationName", max = 255, required = true },
  { name = "manifestPath", max = 1024 }, { name = "tier", max = 50 }, { name = "architecture", max = 50 },
  { name = "cloudProvider", max = 50 }, { name = "pipeline", max = 100 },
}
for _, rule in ipairs(TEXTS) do rule.path = "$." .. rule.name end
local NAMES <const> = {
  "customerId", "customerName", "customerEmail", "configurationName", "manifestPath", "manifest", "tier",
  "architecture", "cloudProvider", "priority", "pipeline", "metadata",
}
local METADATA_BYTES <const> = 8192

--- Whether an address could be one: a local part, one @, a domain. Whether it exists only a mail can tell.
function request.is_email(text)
  local name, domain = text:match("^([^%s@<>\",;:\\()%[%]]+)@([^%s@<>\",;:\\()%[%]_]+)$")
  if not name or #name > 64 then return false end
  if name:find("^%.") or name:find("%.$") or name:find("..", 1, true) then return false end
  return not (domain:find("^[.-]") or domain:find("[.-]$") or domain:find("..", 1, true))
end

local function priority(c, value)
  if value == nil then return 1 end
  local number = value
  if type(value) == "string" then number = request.priorities[value:lower()] or tonumber(value:match("^[0-3]$")) end
  number = type(number) == "number" and math.tointeger(number) or nil
  if number and number >= 0 and number <= 3 then return number end
  return c:fault("$.priority", value, "must be 0 to 3, or low, normal, high, critical")
end

--- A priority from outside.
---@return integer? priority
---@return Fault[]? faults
function request.priority(body)
  local c = check.new()
  local fields = c:object(body, "$", { "priority" })
  local value
  if fields and fields.priority == nil then
    c:fault("$.priority", nil, "is required")
  elseif fields then
    value = priority(c, fields.priority)
  end
  if #c.faults > 0 then return nil, c.faults end
  return value
end

local function metadata(c, value, encode)
  if value == nil then return {} end
  if not check.is_object(value) then
    return c:fault("$.metadata", value, "must be an object, is " .. check.kind(value))
  end
  local size = #encode(value)
  if size > METADATA_BYTES then
    return c:fault("$.metadata", nil, ("has %d bytes as JSON, at most %d are allowed"):format(size, METADATA_BYTES))
  end
  return value
end

---@class Submission what a client asked for; the manifest is still unchecked
---@field customerId string
---@field customerName string
---@field customerEmail string
---@field configurationName string
---@field manifestPath? string exactly one of manifestPath and manifest
---@field manifest? table
---@field tier? string
---@field architecture? string
---@field cloudProvider? string
---@field pipeline? string
---@field priority integer
---@field metadata table

--- The body of POST /builds. Unknown names are ignored.
---@param body any
---@param encode fun(value: any): string JSON, to measure metadata
---@return Submission? submission
---@return Fault[] faults
---@return Submission? faulty what could be read of one with faults
function request.submission(body, encode)
  local c = check.new()
  local fields = c:object(body, "$", NAMES)
  if not fields then return nil, c.faults end
  local result = {}
  for _, rule in ipairs(TEXTS) do
    local value = fields[rule.name]
    if value ~= nil then result[rule.name] = c:text(value, rule.path, rule)
    elseif rule.required then c:fault(rule.path, nil, "is required") end
  end
  if result.customerEmail and not request.is_email(result.customerEmail) then
    c:fault("$.customerEmail", result.customerEmail, "must be an e-mail address")
  end
  if fields.manifestPath ~= nil and fields.manifest ~= nil then
    c:fault("$.manifest", nil, "and manifestPath are both there; one of them says what to build")
  elseif fields.manifestPath == nil and fields.manifest == nil then
    c:fault("$.manifestPath", nil, "is required, or manifest with the manifest itself")
  elseif fields.manifest ~= nil and not check.is_object(fields.manifest) then
    c:fault("$.manifest", fields.manifest, "must be an object, is " .. check.kind(fields.manifest))
  end
  result.manifest = fields.manifest
  result.priority = priority(c, fields.priority)
  result.metadata = metadata(c, fields.metadata, encode)
  if #c.faults > 0 then
    table.sort(c.faults, function(a, b) return a.path < b.path end)
    return nil, c.faults, result
  end
  return result, c.faults
end

--- A reason that somebody gives for a pause or a cancel. `required`: it must be there.
---@return string? reason
---@return Fault[]? faults
function request.reason(body, required)
  local c = check.new()
  local fields = c:object(body, "$", { "reason" })
  local reason = fields and c:text(fields.reason, "$.reason", { max = 250 })
  if fields and required and fields.reason == nil then c:fault("$.reason", nil, "is required") end
  if #c.faults > 0 then return nil, c.faults end
  return reason
end

---@class QueryRule
---@field type "text"|"integer"|"boolean"|"status"|"time"
---@field max? integer characters of a text, or the largest integer
---@field min? integer the smallest integer
---@field required? boolean

local READERS <const> = {}

function READERS.text(c, value, path, rule)
  return c:text(value, path, { max = rule.max or 255 })
end

function READERS.integer(c, value, path, rule)
  local number = value:find("^%-?%d+$") and #value <= 19 and math.tointeger(tonumber(value)) or nil
  if number and number >= rule.min and number <= rule.max then return number end
  return c:fault(path, value, ("must be an integer from %d to %d"):format(rule.min, rule.max))
end

function READERS.boolean(c, value, path)
  local word = value:lower()
  if word == "1" or word == "true" or word == "" then return true end
  if word == "0" or word == "false" then return false end
  return c:fault(path, value, "must be 1 or 0")
end

function READERS.status(c, value, path)
  if request.statuses[value:lower()] then return value:lower() end
  return c:fault(path, value, "must be pending, building, success, failed, cancelled or timedout")
end

--- Query parameters by rules. Unknown ones are ignored, empty ones count as absent (but for booleans).
---@param query table<string, string>
---@param rules table<string, QueryRule>
---@return table? values
---@return Fault[]? faults
function request.query(query, rules)
  local c = check.new()
  local values, given = {}, {}
  for name, value in pairs(query) do given[name:lower()] = value end
  for name, rule in pairs(rules) do
    local value = given[name:lower()]
    if value == "" and rule.type ~= "boolean" then value = nil end
    if value ~= nil and (not utf8.len(value) or value:find("%c")) then
      c:fault("?" .. name, nil, "is not valid text")
    elseif value ~= nil then
      values[name] = READERS[rule.type](c, value, "?" .. name, rule)
    elseif rule.required then
      c:fault("?" .. name, nil, "is required")
    end
  end
  if #c.faults > 0 then return nil, c.faults end
  return values
end

--- The Idempotency-Key header: 1 to 255 visible ASCII characters.
---@return string? key nil without a fault when the header is absent
---@return Fault[]? faults
function request.idempotency_key(headers)
  local key = headers["idempotency-key"]
  if key == nil then return nil end
  if #key >= 1 and #key <= 255 and key:find("^[\33-\126]+$") then return key end
  local c = check.new()
  c:fault("Idempotency-Key", nil, "must have 1 to 255 visible ASCII characters")
  return nil, c.faults
end

return request
