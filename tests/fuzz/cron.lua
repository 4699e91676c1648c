-- Cron expressions: whatever is accepted names sorted numbers within their bounds, and those are accepted again.
local cron = require "cron"
local ORDER = { "minutes", "hours", "days", "months", "weekdays" }
local LOW = { minutes = 0, hours = 0, days = 1, months = 1, weekdays = 0 }
local HIGH = { minutes = 59, hours = 23, days = 31, months = 12, weekdays = 6 }
return function(text)
  local fields, message = cron.parse(text)
  if not fields then
    assert(type(message) == "string" and #message > 0, "refused without a word")
    return
  end
  local words = {}
  for index, name in ipairs(ORDER) do
    local list, before = fields[name], -1
    assert(#list > 0, name .. " are empty")
    for _, value in ipairs(list) do
      assert(math.type(value) == "integer" and value > before, name .. " are not sorted")
      assert(value >= LOW[name] and value <= HIGH[name], name .. " are out of bounds")
      before = value
    end
    words[index] = table.concat(list, ",")
  end
  assert(fields.wild == (#fields.hours == 24), "wild")
  local again = assert(cron.parse(table.concat(words, " ")))
  for index, name in ipairs(ORDER) do assert(table.concat(again[name], ",") == words[index], name) end
end
