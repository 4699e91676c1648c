-- What receives notifications in the world outside: types, parsers and verifiers from npm, and programs around
-- them in tests/npm. They are installed below build/ when a spec first asks; without node or the registry its tests are
-- skipped.
local process = require "spec.support.process"
local uv = require "luv"

local npm = {}

local DIRECTORY <const> = uv.cwd() .. "/build/npm" -- one for all builds: nothing in it is compiled by us

--- Nil, or why there is nothing: say it with pending().
---@return string? reason
function npm.missing()
  local found = process.run { "sh", "-c", "command -v node && command -v npm" }
  if found.code ~= 0 then return "there is no node or no npm" end
  local made = process.run { "make", "-s", "build/npm/installed" }
  if made.code == 0 then return nil end
  local said = made.errors .. made.output
  return "npm can't install tests/npm: " .. (said:match "reason: ([^\n]*)" or said:gsub("%s+", " "):sub(1, 200))
end

--- Runs tests/npm/<name>; one of tests/npm is a program.
---@param name string "slack.mjs"
---@param input string standard input
---@return Child
function npm.run(name, input)
  local file = process.directory() .. "/input"
  process.write(file, input)
  return process.run { "sh", "-c", 'exec node "$1" < "$2"', "sh", DIRECTORY .. "/" .. name, file }
end

--- Starts one.
---@param name string
---@param ... string arguments
---@return Child
function npm.spawn(name, ...) return process.spawn { "node", DIRECTORY .. "/" .. name, ... } end

return npm
