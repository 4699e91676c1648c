-- JSON in the one form of RFC 8785 (JSON Canonicalization Scheme), so that equal values give equal bytes. Pure Lua.

local check = require "check"

local canonical = {}

local SHORT <const> = { ["\b"] = "\\b", ["\t"] = "\\t", ["\n"] = "\\n", ["\f"] = "\\f", ["\r"] = "\\r",
  ['"'] = '\\"', ["\\"] = "\\\\" }

-- Section 3.2.2.2: only what JSON needs is escaped.
local function text_of(text)
  assert(utf8.len(text), "a text that is no UTF-8 has no canonical form")
  return '"' .. text:gsub('[%z\1-\31"\\]', function(c) return SHORT[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end

-- Section 3.2.2.3: as ECMAScript writes a double: the fewest digits that give it again, and no exponent from 1e-7 on
-- up to 1e21.
local function number_of(number)
  if number ~= number or number == math.huge or number == -math.huge then error("no JSON number: " .. number) end
  if number == 0 then return "0" end
  if math.type(number) == "integer" and number > -(1 << 53) and number < 1 << 53 then return tostring(number) end
  local value = number + 0.0
  local form
  for digits = 0, 16 do
    form = ("%." .. digits .. "e"):format(value)
    if tonumber(form) == value then break end
  end
  local sign, first, rest, exponent = form:match("^(%-?)(%d)%.?(%d*)e([+-]%d+)$")
  local digits = (first .. rest):gsub("0+$", "")
  local point = math.tointeger(tonumber(exponent)) + 1 -- where the point stands, counted from the first digit
  if point > 0 and point <= 21 then
    if #digits <= point then return sign .. digits .. ("0"):rep(point - #digits) end
    return sign .. digits:sub(1, point) .. "." .. digits:sub(point + 1)
  elseif point > -6 and point <= 0 then
    return sign .. "0." .. ("0"):rep(-point) .. digits
  end
  local mantissa = #digits == 1 and digits or digits:sub(1, 1) .. "." .. digits:sub(2)
  return ("%s%se%s%d"):format(sign, mantissa, point > 0 and "+" or "-", math.abs(point - 1))
end

-- Section 3.2.3: names are sorted by their UTF-16 code units.
local function utf16(text)
  local units = {}
  for _, code in utf8.codes(text) do
    if code < 0x10000 then
      units[#units + 1] = string.pack(">I2", code)
    else
      units[#units + 1] = string.pack(">I2I2", 0xD800 + ((code - 0x10000) >> 10), 0xDC00 + ((code - 0x10000) & 0x3FF))
    end
  end
  return table.concat(units)
end

local encode

local function object_of(value)
  local names, order = {}, {}
  for name in pairs(value) do
    names[#names + 1] = name
    order[name] = utf16(name)
  end
  table.sort(names, function(a, b) return order[a] < order[b] end)
  local parts = {}
  for index, name in ipairs(names) do parts[index] = text_of(name) .. ":" .. encode(value[name]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

function encode(value)
  local kind = type(value)
  if kind == "string" then return text_of(value) end
  if kind == "number" then return number_of(value) end
  if kind == "boolean" then return tostring(value) end
  if kind == "userdata" then return "null" end
  assert(kind == "table", "no JSON value: " .. kind)
  if not check.is_array(value) then return object_of(value) end
  local parts = {}
  for index = 1, #value do parts[index] = encode(value[index]) end
  return "[" .. table.concat(parts, ",") .. "]"
end

--- A value's canonical JSON. An empty table is an object unless it is marked as an array. Raises for what JSON can't
--- hold.
---@param value Json
---@return string
canonical.encode = encode

return canonical
