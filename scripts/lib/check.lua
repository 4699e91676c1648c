-- Checks decoded JSON from outside and collects every fault with its path, so that a caller hears of all at once.
--
-- Pure Lua: it needs no server. A JSON null (type "userdata") counts as absent.

local check = {}

---@class Fault
---@field path string "$.cloudTargets[0].provider"
---@field message string
---@field value? string|number|boolean what stood there, cut to 100 bytes; left out where it could be a secret

---@class Check
---@field faults Fault[]
---@field warnings Fault[]
local Check = {}
Check.__index = Check

local MAX_FAULTS <const> = 100 -- more don't help anybody

local array_mark <const> = { __jsontype = "array" }

--- Marks a table as a JSON array, as buildq.json.array does.
function check.array(list)
  return setmetatable(list or {}, array_mark)
end

--- Whether a decoded value is a JSON array. An empty table without the mark is an object.
function check.is_array(value)
  if type(value) ~= "table" then return false end
  local meta = getmetatable(value)
  if type(meta) == "table" and meta.__jsontype ~= nil then return meta.__jsontype == "array" end
  return value[1] ~= nil
end

--- Whether a decoded value is a JSON object.
function check.is_object(value)
  return type(value) == "table" and not check.is_array(value)
end

--- The value, or nil for a JSON null.
function check.present(value)
  if type(value) == "userdata" then return nil end
  return value
end

local function shown(value)
  if type(value) == "string" then
    if #value <= 100 then return utf8.len(value) and value or nil end
    local cut = value:sub(1, 97)
    while #cut > 0 and not utf8.len(cut) do cut = cut:sub(1, -2) end
    return #cut > 90 and cut .. "…" or nil
  end
  if type(value) == "number" or type(value) == "boolean" then return value end
  return nil
end

--- What a decoded value is called in a message.
function check.kind(value)
  if value == nil or type(value) == "userdata" then return "null" end
  if type(value) == "table" then return check.is_array(value) and "an array" or "an object" end
  return (type(value) == "string" and "a string") or (type(value) == "number" and "a number") or "a boolean"
end

---@return Check
function check.new()
  return setmetatable({ faults = check.array(), warnings = check.array() }, Check)
end

--- Notes a fault. Returns nil, so that a failing check is one statement.
function Check:fault(path, value, message)
  if #self.faults < MAX_FAULTS then
    self.faults[#self.faults + 1] = { path = path, value = shown(value), message = message }
  end
  return nil
end

function Check:warn(path, message)
  if #self.warnings < MAX_FAULTS then
    self.warnings[#self.warnings + 1] = { path = path, message = message }
  end
end

--- A path's next segment: `.name`, or `["odd name"]`.
function check.join(path, key)
  if math.type(key) == "integer" then return ("%s[%d]"):format(path, key) end
  if key:find("^[%a_][%w_]*$") then return path .. "." .. key end
  local text = utf8.len(key) and key:sub(1, 100) or "?"
  return ("%s[%q]"):format(path, text:gsub("%c", "?"))
end

-- A list of names as a set, made once for each list.
local sets <const> = setmetatable({}, { __mode = "k" })
local function set_of(names)
  local set = sets[names]
  if not set then
    set = {}
    for _, name in ipairs(names) do set[name] = true end
    sets[names] = set
  end
  return set
end

-- What nearly every client sends: all names as they are written here. Nil when one isn't.
local function exact_fields(value, set)
  local result = {}
  for key, item in pairs(value) do
    if not set[key] then return nil end
    result[key] = check.present(item)
  end
  return result
end

--- An object's fields under their canonical names, whatever case they came in; nulls are left out.
--- A name given twice in different cases is a fault. `unknown(path, key)` is called for the others.
---@param names string[] canonical names
function Check:object(value, path, names, unknown)
  if not check.is_object(value) then return self:fault(path, value, "must be an object, is " .. check.kind(value)) end
  local exact = exact_fields(value, set_of(names))
  if exact then return exact end
  local canonical, given, result = {}, {}, {}
  for _, name in ipairs(names) do canonical[name:lower()] = name end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = tostring(key) end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local name = canonical[key:lower()]
    if name and given[name] then
      self:fault(check.join(path, key), nil, ("is there already as %s; names count in any case"):format(given[name]))
    elseif name then
      given[name] = key
      result[name] = check.present(value[key])
    elseif unknown then
      unknown(check.join(path, key), key)
    end
  end
  return result
end

---@class TextRule
---@field max integer characters
---@field min? integer characters; 1
---@field lines? boolean line breaks and tabs are allowed
---@field secret? boolean the value is not repeated in a fault

local CONTROL <const>, CONTROL_BUT_LINES <const> = "[\0-\31\127]", "[\0-\8\11\12\14-\31\127]"

--- A string without control characters. Absent gives nil and no fault.
---@param rule TextRule
---@return string?
function Check:text(value, path, rule)
  value = check.present(value)
  if value == nil then return nil end
  if type(value) ~= "string" then return self:fault(path, value, "must be a string, is " .. check.kind(value)) end
  local echo = not rule.secret and value or nil
  local length = utf8.len(value)
  if not length then return self:fault(path, nil, "is not valid UTF-8") end
  if value:find(rule.lines and CONTROL_BUT_LINES or CONTROL) then
    return self:fault(path, nil, "must not hold control characters")
  end
  local min = rule.min or 1
  if length < min or (min > 0 and not value:find("%S")) then return self:fault(path, echo, "must not be empty") end
  if length > rule.max then
    return self:fault(path, echo, ("has %d characters, at most %d are allowed"):format(length, rule.max))
  end
  return value
end

--- A finite number within bounds. Absent gives nil and no fault.
---@return number?
function Check:number(value, path, low, high)
  value = check.present(value)
  if value == nil then return nil end
  if type(value) ~= "number" then return self:fault(path, value, "must be a number, is " .. check.kind(value)) end
  if not (value >= low and value <= high) then
    return self:fault(path, value, ("must be from %s to %s"):format(low, high))
  end
  return value
end

--- A list, each item through `item(value, path)`; items that fail are left out. Absent gives an empty list.
---@param max integer items
function Check:list(value, path, max, item)
  value = check.present(value)
  local result = check.array()
  if value == nil then return result end
  if not check.is_array(value) then
    self:fault(path, value, "must be an array, is " .. check.kind(value))
    return result
  end
  if #value > max then
    self:fault(path, nil, ("has %d items, at most %d are allowed"):format(#value, max))
    return result
  end
  for index = 1, #value do
    local item_path = check.join(path, index - 1)
    if check.present(value[index]) == nil then
      self:fault(item_path, nil, "must not be null")
    else
      result[#result + 1] = item(value[index], item_path)
    end
  end
  return result
end

--- An object whose names are the author's own, each value through `item(value, path, key)`.
---@param max integer entries
function Check:map(value, path, max, item)
  value = check.present(value)
  if value == nil then return {} end
  if not check.is_object(value) then
    self:fault(path, value, "must be an object, is " .. check.kind(value))
    return {}
  end
  local keys, result = {}, {}
  for key in pairs(value) do keys[#keys + 1] = tostring(key) end
  table.sort(keys)
  if #keys > max then
    self:fault(path, nil, ("has %d entries, at most %d are allowed"):format(#keys, max))
    return result
  end
  for _, key in ipairs(keys) do
    local given = check.present(value[key])
    if given ~= nil then result[key] = item(given, check.join(path, key), key) end
  end
  return result
end

return check
