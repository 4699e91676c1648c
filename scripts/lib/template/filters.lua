-- The filters of templates. A filter is called as f(value, arguments …) and returns a value; one that returns
-- filters.safe(text) has made HTML itself and vouches for it. `values` says what a filter takes, for the manual.

local escape = require "template.escape"

local filters = {}

local Safe = {}

--- Marks text as HTML that needs no escaping.
---@param text string
---@return table
function filters.safe(text) return setmetatable({ text = text }, Safe) end

---@param value any
---@return boolean
function filters.is_safe(value) return getmetatable(value) == Safe end

local function number_of(value, name)
  local number = tonumber(value)
  if not number then error(("%s needs a number, it got %s"):format(name, tostring(value)), 0) end
  return number
end

local function text_of(value, name)
  local kind = math.type(value) or type(value)
  if kind ~= "string" and kind ~= "integer" and kind ~= "float" then
    error(("%s needs text, it got a %s"):format(name, type(value)), 0)
  end
  return tostring(value)
end

-- Fixed to two digits below ten, none from 100 on: "9.87", "98.7", "987".
local function short(number)
  if number >= 100 then return ("%.0f"):format(number) end
  return (("%.2f"):format(number):sub(1, 4):gsub("0+$", ""):gsub("%.$", ""))
end

local function days_from_civil(year, month, day)
  -- Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": days_from_civil
  year = month <= 2 and year - 1 or year
  local era = year // 400
  local of_era = year - era * 400
  local of_year = (153 * (month + (month > 2 and -3 or 9)) + 2) // 5 + day - 1
  return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
end

local function span(color, text) return ('<span style="color:%s">%s</span>'):format(color, escape.html(text)) end

-- The colours stand on the dark background that code has in mails, by day and by night.
local function shell_html(text)
  local parts = {}
  for line, ending in text:gmatch("([^\n]*)(\n?)") do
    if line:find("^%s*#") then
      parts[#parts + 1] = span("#8b98a9", line)
    else
      local at = 1
      while at <= #line do
        local word = line:match("^'[^']*'", at) or line:match('^"[^"]*"', at)
        local color = word and "#a5d6a7"
        if not word and (at == 1 or line:find("^%s", at - 1)) then
          word = line:match("^%-%-?[%w-]+", at)
          color = "#f2c97d;white-space:nowrap" -- lines break at hyphens
        end
        if not word and not line:sub(1, at - 1):find("%S") then
          word = line:match("^[%w_.+-]+", at)
          color = "#82b1ff"
        end
        parts[#parts + 1] = word and span(color, word) or escape.html(line:sub(at, at))
        at = at + (word and #word or 1)
      end
    end
    parts[#parts + 1] = ending
  end
  return table.concat(parts)
end

local ALL = {
  default = {
    values = "anything, also null", arguments = "what stands in for it",
    does = "the argument where the value is null or empty",
    call = function(value, otherwise) return (value == nil or value == "") and otherwise or value end,
  },
  upper = {
    values = "text", does = "capital letters (ASCII)",
    call = function(v) return text_of(v, "upper"):upper() end,
  },
  lower = {
    values = "text", does = "small letters (ASCII)",
    call = function(v) return text_of(v, "lower"):lower() end,
  },
  length = {
    values = "text or a list", does = "how many characters or items",
    call = function(v)
      if type(v) == "table" then return #v end
      return utf8.len(text_of(v, "length")) or #v
    end,
  },
  join = {
    values = "a list", arguments = "what goes between, \", \" when absent", does = "its items as one text",
    call = function(v, between)
      if type(v) ~= "table" then error("join needs a list, it got a " .. type(v), 0) end
      local items = {}
      for index, item in ipairs(v) do items[index] = text_of(item, "join") end
      return table.concat(items, between or ", ")
    end,
  },
  truncate = {
    values = "text", arguments = "how many characters", does = "cut to that many, with … at the end",
    call = function(v, count)
      local text = text_of(v, "truncate")
      count = math.tointeger(number_of(count, "truncate"))
      if (utf8.len(text) or #text) <= count then return text end
      return text:sub(1, (utf8.offset(text, count) or count + 1) - 1) .. "…"
    end,
  },
  number = {
    values = "a number", arguments = "decimals, 0 when absent", does = "rounded to that many decimals",
    call = function(v, decimals) return ("%%.%df"):format(decimals or 0):format(number_of(v, "number")) end,
  },
  bytes = {
    values = "a number", does = "a size for people: 12.3 MB",
    call = function(v)
      local number, unit = number_of(v, "bytes"), 1
      local units <const> = { "bytes", "kB", "MB", "GB", "TB" }
      while number >= 1000 and unit < #units do number, unit = number / 1000, unit + 1 end
      return ("%s %s"):format(unit == 1 and ("%d"):format(number // 1) or short(number), units[unit])
    end,
  },
  duration = {
    values = "seconds", does = "a time span for people: 3 min 20 s",
    call = function(v)
      local seconds = number_of(v, "duration")
      if seconds < 10 then return short(seconds) .. " s" end
      seconds = math.floor(seconds + 0.5)
      if seconds < 60 then return ("%d s"):format(seconds) end
      if seconds < 3600 then return ("%d min %d s"):format(seconds // 60, seconds % 60) end
      if seconds < 86400 then return ("%d h %d min"):format(seconds // 3600, seconds % 3600 // 60) end
      return ("%d d %d h"):format(seconds // 86400, seconds % 86400 // 3600)
    end,
  },
  date = {
    values = "a time as the API writes it (RFC 3339)",
    arguments = "a format of strftime, \"%e %B %Y %H:%M\" when absent",
    does = "the time in UTC",
    call = function(v, format)
      local text = text_of(v, "date")
      local year, month, day, hour, minute, second = text:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)")
      if not year or not text:find("Z$") then
        error(("date needs a time like 2026-01-31T12:00:00Z, it got %q"):format(text), 0)
      end
      local function integer(digits) return math.tointeger(tonumber(digits)) end
      local days = days_from_civil(integer(year), integer(month), integer(day))
      local unix = days * 86400 + tonumber(hour) * 3600 + tonumber(minute) * 60 + tonumber(second)
      -- %e is the day without the blank that strftime puts before a single digit.
      local wanted = (format or "%e %B %Y %H:%M"):gsub("%%(.)", { e = tostring(integer(day)) })
      return os.date("!" .. wanted, math.tointeger(unix))
    end,
  },
  url_part = {
    values = "text", does = "percent-encoded, to stand inside a URL in plain text",
    call = function(v) return escape.url_part(text_of(v, "url_part")) end,
  },
  quoted = {
    values = "text", does = "in single quotes, as one word of a shell's line",
    call = function(v) return "'" .. text_of(v, "quoted"):gsub("'", "'\\''") .. "'" end,
  },
  shell = {
    values = "lines for a shell", does = "HTML with comments, strings and options in colour",
    call = function(v) return filters.safe(shell_html(text_of(v, "shell"))) end,
  },
  indent = {
    values = "text", arguments = "how many blanks", does = "each line begins with them",
    call = function(v, count)
      local blanks = (" "):rep(math.tointeger(number_of(count, "indent")))
      return blanks .. text_of(v, "indent"):gsub("\n", "\n" .. blanks)
    end,
  },
  unescaped = {
    values = "text",
    does = "HTML as it is: only for what you have written yourself, never for what a customer may have",
    call = function(v) return filters.safe(text_of(v, "unescaped")) end,
  },
}

filters.all = ALL

return filters
