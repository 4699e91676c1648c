-- Cron expressions, read as Debian's cron(8) reads them (crontab(5)): minute, hour, day of month, month, day of week.
--
-- Pure Lua: it needs no server. When a time comes in a given zone is SQL's business (buildq_occurrences).

local cron = {}

local MONTHS <const> = {
  jan = 1, feb = 2, mar = 3, apr = 4, may = 5, jun = 6, jul = 7, aug = 8, sep = 9, oct = 10, nov = 11, dec = 12,
}
local WEEKDAYS <const> = { sun = 0, mon = 1, tue = 2, wed = 3, thu = 4, fri = 5, sat = 6 }
local MACROS <const> = {
  ["@yearly"] = "0 0 1 1 *", ["@annually"] = "0 0 1 1 *", ["@monthly"] = "0 0 1 * *", ["@weekly"] = "0 0 * * 0",
  ["@daily"] = "0 0 * * *", ["@midnight"] = "0 0 * * *", ["@hourly"] = "0 * * * *",
}
local FIELDS <const> = {
  { name = "minutes", what = "minute", low = 0, high = 59 },
  { name = "hours", what = "hour", low = 0, high = 23 },
  { name = "days", what = "day of the month", low = 1, high = 31 },
  { name = "months", what = "month", low = 1, high = 12, words = MONTHS },
  { name = "weekdays", what = "day of the week", low = 0, high = 7, words = WEEKDAYS },
}
local LENGTHS <const> = { 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

---@class CronFields what an expression names; lists are sorted
---@field minutes integer[]
---@field hours integer[]
---@field days integer[] of the month
---@field months integer[]
---@field weekdays integer[] 0 is Sunday
---@field either boolean the day of the month or the day of the week is enough: both are restricted
---@field wild boolean every hour is named: it follows elapsed time where clocks change

local function number(field, text, item)
  local value = field.words and field.words[text:lower()] or (text:find "^%d%d?$" and math.tointeger(text))
  if not value then return nil, ("%q is no %s"):format(text, field.what) end
  if value < field.low or value > field.high then
    return nil, ("%q: a %s is %d to %d"):format(item, field.what, field.low, field.high)
  end
  return value
end

-- "a-b", "*" or "a", and the step behind it.
local function range(field, item)
  local body, step = item:match "^([^/]*)/?(.*)$"
  local stepped = item:find("/", 1, true) ~= nil
  local low, high, message
  if body == "*" then
    low, high = field.low, field.words == WEEKDAYS and 6 or field.high
  else
    local from, to = body:match "^([^-]+)%-([^-]+)$"
    low, message = number(field, from or body, item)
    if not low then return nil, message end
    high = low
    if to then
      high, message = number(field, to, item)
      if not high then return nil, message end
      if field.words == WEEKDAYS and high == 0 and low > 0 then high = 7 end -- fri-sun
    elseif stepped then
      return nil, ("%q: a step follows * or a range, as in %s-%d/%s"):format(item, body, field.high, step)
    end
    if high < low then return nil, ("%q ends before it begins"):format(item) end
  end
  local by = 1
  if stepped then
    by = step:find "^%d%d?$" and math.tointeger(step) or 0
    if by < 1 then return nil, ("%q: a step is a number from 1"):format(item) end
  end
  return low, high, by
end

local function read_field(field, text)
  local set, list = {}, {}
  for item in (text .. ","):gmatch "([^,]*)," do
    local low, high, by = range(field, item)
    if not low then return nil, high end
    for value = low, high, by do set[field.words == WEEKDAYS and value % 7 or value] = true end
  end
  for value = field.low, field.high do
    if set[value] then list[#list + 1] = value end
  end
  return list
end

-- Whether there is a day at all: not so for 30 February.
local function can_come(fields)
  if fields.either then return true end
  for _, month in ipairs(fields.months) do
    if fields.days[1] <= LENGTHS[month] then return true end
  end
  return false
end

--- Reads an expression.
---@param text string "30 2 * * mon-fri", "@daily"
---@return CronFields? fields
---@return string? message what is wrong with it
function cron.parse(text)
  if type(text) ~= "string" then return nil, "a cron expression is a string" end
  local expression = text:match "^%s*(.-)%s*$"
  if expression:sub(1, 1) == "@" then
    local macro = MACROS[expression:lower()]
    if not macro then
      return nil, ("%q is not known; there are @hourly, @daily, @weekly, @monthly, @yearly"):format(expression)
    end
    expression = macro
  end
  local words = {}
  for word in expression:gmatch "%S+" do words[#words + 1] = word end
  if #words ~= #FIELDS then
    return nil, ("%q has %d fields; a cron expression has five: minute, hour, day of the month, month, day of the week")
      :format(text, #words)
  end
  local result = {}
  for index, field in ipairs(FIELDS) do
    local list, message = read_field(field, words[index])
    if not list then return nil, ("%q: %s"):format(text, message) end
    result[field.name] = list
  end
  local function starred(index) return words[index]:sub(1, 1) == "*" end
  result.either = not starred(3) and not starred(5)
  result.wild = #result.hours == 24
  if not can_come(result) then return nil, ("%q names a day that never comes"):format(text) end
  return result
end

return cron
