-- Reads decoded JSON by rows of manifest.fields: checks, fills in what is absent, warns of what nothing acts on.

local rules = require "manifest.rules"

local shape = {}

local read
local readers = {}

---@class Reading
---@field c Check collects faults and warnings
---@field trusted boolean
---@field unknown fun(path: string, key: string)

local function read_text(r, row, value, path, key)
  local given = value
  if type(value) == "number" or type(value) == "boolean" then
    if row.check == "property" or row.check == "variable" then given = tostring(value) end
  end
  local text = r.c:text(given, path, { max = row.max, min = row.min, lines = row.lines, secret = row.secret })
  if not text then return nil end
  if row.check then
    local message, hidden = rules[row.check](text, r.trusted, key)
    if message then return r.c:fault(path, not (hidden or row.secret) and text or nil, message) end
  end
  return text
end

local function read_word(r, row, value, path)
  if type(value) == "string" then
    for _, word in ipairs(row.words) do
      if word == value:lower() then return word end
    end
  end
  return r.c:fault(path, value, "must be " .. table.concat(row.words, ", "):gsub(", ([^,]*)$", " or %1"))
end

readers.text, readers.word = read_text, read_word

function readers.number(r, row, value, path) return r.c:number(value, path, row.low, row.high) end

function readers.integer(r, row, value, path)
  local number = r.c:number(value, path, row.low, row.high)
  if number == nil then return nil end
  return math.tointeger(number) or r.c:fault(path, value, "must be a whole number")
end

function readers.boolean(r, _, value, path)
  if type(value) == "boolean" then return value end
  return r.c:fault(path, value, "must be true or false")
end

function readers.object(r, row, value, path) return shape.object(r, row.fields, value, path) end

function readers.list(r, row, value, path)
  return r.c:list(value, path, row.max, function(item, item_path)
    if row.of.type then return readers[row.of.type](r, row.of, item, item_path) end
    return shape.object(r, row.of, item, item_path)
  end)
end

function readers.map(r, row, value, path)
  return r.c:map(value, path, row.max, function(item, item_path, key)
    return read_text(r, row.of, item, item_path, key)
  end)
end

local function absent(r, row, path)
  if row.required then return r.c:fault(path, nil, "is required") end
  if row.type == "list" then return r.c:list(nil, path, row.max, nil) end
  if row.type == "map" then return {} end
  return row.default
end

function read(r, row, value, path)
  if value == nil then return absent(r, row, path) end
  if row.unused then r.c:warn(path, row.unused) end
  local result = readers[row.type](r, row, value, path)
  if row.type == "list" and row.required and #value == 0 then r.c:fault(path, nil, "must hold at least one entry") end
  return result
end

--- An object of these fields; nil when it is none. What is absent and has a default gets it.
---@param r Reading
---@param rows Field[]
function shape.object(r, rows, value, path)
  local names = {}
  for index, row in ipairs(rows) do names[index] = row.name end
  local given = r.c:object(value, path, names, r.unknown)
  if not given then return nil end
  local result = {}
  for _, row in ipairs(rows) do result[row.name] = read(r, row, given[row.name], path .. "." .. row.name) end
  return result
end

return shape
