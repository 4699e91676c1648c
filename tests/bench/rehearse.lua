-- How many builds a second `buildq rehearse` plays through: a history of 100,000, under two policies each.
local socket = require "socket"
local Server = require "spec.support.server"
local process = require "spec.support.process"

local BUILDS <const>, LIMIT_SECONDS <const> = 100000, 10
local TIERS <const> = { "free", "pro", "enterprise" }
local BEGIN_US <const> = 1767225600000000

local LINE <const> = '{"id":"00000000-0000-7000-8000-%012d","enqueuedAt":%d,"customerId":"c%d","customerName":"C%d",'
  .. '"tier":"%s","architecture":"linux-x64","cloudProvider":"aws","pipeline":"p","configurationName":"main",'
  .. '"priority":%d,"metadata":{},"status":"%s","rounds":[{"attempts":[%s]}]}'

local function write_history(path)
  math.randomseed(7)
  local file, at = assert(io.open(path, "w")), BEGIN_US
  file:write('{"format":"buildq history 1","slots":40}\n')
  for i = 1, BUILDS do
    at = at + math.random(1, 20 * 1000000)
    local customer = math.random(200)
    local attempts = ('{"seconds":%.3f,"outcome":"success"}'):format(math.random(20, 700))
    if i % 10 == 0 then
      attempts = ('{"seconds":%.3f,"outcome":"failed","kind":"step","message":"connection refused"},%s')
        :format(math.random(20, 300), attempts)
    end
    file:write(LINE:format(i, at, customer, customer, TIERS[customer % 3 + 1], math.random(0, 3), "success", attempts),
      "\n")
  end
  file:close()
end

return function(report)
  local server = Server.new { database = false }
  local history = process.directory() .. "/history.jsonl"
  write_history(history)
  local began = socket.gettime()
  local done = server:command({ "rehearse", "--from", history, "--json", "scripts/policies/fair.lua" },
    { seconds = 120 })
  local seconds = socket.gettime() - began
  assert(done.code == 0, done.errors)
  report { group = "rehearsal", name = "100,000 builds, strict beside fair", value = BUILDS / seconds, unit = "/s",
    beside = ("aim: in %d s"):format(LIMIT_SECONDS), limit = BUILDS / LIMIT_SECONDS,
    ratio = LIMIT_SECONDS / seconds, aim = 1, better = "higher" }
end
