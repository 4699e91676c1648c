-- A route that answers a constant, beside nginx whose Lua module (LuaJIT) answers the same. Each server alone on core
-- 0, wrk on core 1, in turns; what counts is the median of the rounds' ratios.
local Server = require "spec.support.server"
local process = require "spec.support.process"
local support = require "tests.bench.support"
local nginx = require "tests.bench.nginx"

local ROUNDS <const>, SECONDS <const> = 9, 1

-- Seconds of CPU time that a process has used.
local function cpu_seconds(pid)
  local text, fields = process.read(("/proc/%d/stat"):format(pid)), {}
  for field in text:match "%) (.*)":gmatch "%S+" do fields[#fields + 1] = field end
  return (tonumber(fields[12]) + tonumber(fields[13])) / 100
end

return function(report)
  if not support.has "wrk" then return "wrk is not installed" end
  local server = Server.start {
    config = { BuildQueue = { MaxConnectionsPerPeer = 400 } },
    scripts = { ["routes/constant.lua"] = [[
      return { method = "GET", path = "/constant", handle = function() return { body = "hello\n" } end }
    ]] },
  }
  process.check { "taskset", "-a", "-p", "-c", "0", tostring(server.child.pid) }
  local other, address = nginx.start()
  if not other then return "nginx with its Lua module is not installed" end
  local sides = {
    { url = ("http://%s/constant"):format(server.address), pid = server.child.pid, rates = {}, requests = 0 },
    { url = ("http://%s/constant"):format(address), pid = other.pid, rates = {}, requests = 0 },
  }
  for _, side in ipairs(sides) do
    support.wrk(side.url, 1) -- warm
    side.began = cpu_seconds(side.pid)
  end
  local ratios = {}
  for round = 1, ROUNDS do
    for _, side in ipairs(sides) do
      local requests
      side.rates[round], requests = support.wrk(side.url, SECONDS)
      side.requests = side.requests + requests
    end
    ratios[round] = sides[1].rates[round] / sides[2].rates[round]
  end
  for _, side in ipairs(sides) do side.cpu_us = (cpu_seconds(side.pid) - side.began) / side.requests * 1e6 end
  other:kill()
  other:wait()
  server:stop()
  report { group = "routes", name = "a constant", value = support.median(sides[1].rates), unit = "/s",
    beside = "nginx's Lua module", limit = support.median(sides[2].rates), ratio = support.median(ratios), aim = 0.9,
    better = "higher" }
  -- The same from the other side, which other programs on the machine disturb less.
  report { group = "routes", name = "CPU time of one", value = sides[1].cpu_us, unit = "µs",
    beside = "nginx's Lua module", limit = sides[2].cpu_us, ratio = sides[1].cpu_us / sides[2].cpu_us, aim = 1 / 0.9,
    better = "lower" }
end
