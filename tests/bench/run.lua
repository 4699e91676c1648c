-- Measures, and says each figure beside a limit that was measured in the same run: lua5.4 tests/bench/run.lua [--json]
-- [GROUP…]. `make bench` calls it; README.md of this room says what is measured and how.
package.path = "./?.lua;" .. package.path
local alone = require "spec.support.alone"
for _, name in ipairs { "support", "durable", "nginx", "graphile", "claimer" } do
  package.preload["tests.bench." .. name] = function() return dofile("tests/bench/" .. name .. ".lua") end
end

local json = require "dkjson"
local process = require "spec.support.process"

---@class Figure one row of the output
---@field group string
---@field name string
---@field value number
---@field unit string
---@field beside string what the limit is
---@field limit number in the same unit
---@field ratio number value / limit, or the median of such ratios
---@field aim number the ratio should be this at most ("lower") or at least ("higher")
---@field better "lower"|"higher"

local GROUPS <const> = { "library", "runtime", "jobs", "latency", "api", "memory", "servers", "claims",
  "depth", "sustained", "retention", "exec", "log", "startstop", "reload", "neighbours", "rehearse", "route", "product",
  "mail" }

local wanted, as_json = {}, false
for _, word in ipairs(arg) do
  if word == "--json" then
    as_json = true
  else
    wanted[word] = true
    local known = false
    for _, group in ipairs(GROUPS) do known = known or group == word end
    if not known then
      io.stderr:write(("bench: there is no group %s (%s)\n"):format(word, table.concat(GROUPS, ", ")))
      os.exit(2)
    end
  end
end

local figures = {} ---@type Figure[]

local function is_met(figure)
  if figure.better == "higher" then return figure.ratio >= figure.aim end
  return figure.ratio <= figure.aim
end

local function number(value)
  local digits = math.abs(value) >= 1000 and 0 or math.abs(value) >= 10 and 1 or 3
  return ("%%.%df"):format(digits):format(value)
end

-- µ is one column of two bytes.
local function pad(text, width) return text .. (" "):rep(width - utf8.len(text)) end

local last_group
local function show(figure)
  if as_json then return end
  if figure.group ~= last_group then
    last_group = figure.group
    print(("\n%s\n%s %s %s   ratio  aim"):format(figure.group, pad("", 44), pad("measured", 12), pad("beside", 54)))
  end
  print(("%s %s %s %7.2f  %s %.3g%s"):format(pad("  " .. figure.name, 44),
    pad(number(figure.value) .. " " .. figure.unit, 12),
    pad(("%s %s, %s"):format(number(figure.limit), figure.unit, figure.beside), 54), figure.ratio,
    figure.better == "higher" and ">=" or "<=", figure.aim, is_met(figure) and "" or "   missed"))
end

---@param figure Figure
local function report(figure)
  figures[#figures + 1] = figure
  show(figure)
end

-- A program in C that writes a figure a line.
local function run_program(name)
  local program = ("%s/tests/bench_%s"):format(os.getenv "BUILDQ_BUILD" or "build", name)
  local output = process.check({ program }, { seconds = 120 })
  for line in output:gmatch "[^\n]+" do report(assert(json.decode(line))) end
end

local function run_group(group)
  if group == "library" or group == "runtime" then return run_program(group) end
  local why = dofile(("tests/bench/%s.lua"):format(group))(report)
  if why then io.stderr:write(("bench: %s was left out: %s\n"):format(group, why)) end
end

local failed = 0
for _, group in ipairs(GROUPS) do
  if next(wanted) == nil or wanted[group] then
    local ok, message = xpcall(run_group, debug.traceback, group)
    if not ok then
      failed = failed + 1
      io.stderr:write(("bench: %s failed: %s\n"):format(group, message))
    end
    alone.finish()
  end
end
if as_json then print(json.encode({ figures = figures, failed = failed }, { indent = true })) end
os.exit(failed == 0 and 0 or 1)
