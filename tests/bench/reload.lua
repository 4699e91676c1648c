-- From the save of a script to the first answer made by it, and what clients notice of 10,000 reloads.
local uv = require "luv"
local socket = require "socket"
local Server = require "spec.support.server"
local process = require "spec.support.process"
local support = require "tests.bench.support"

local SAVES <const>, RELOADS <const>, TEXTS <const> = 150, 10000, 50
local AIM_MS <const> = 200

local function route(turn)
  return ('return { method = "GET", path = "/turn", handle = function() return { body = "%d" } end }\n'):format(turn)
end

return function(report)
  local server = Server.start { scripts = { ["routes/turn.lua"] = route(0) } }
  local target = server.directory .. "/scripts/routes/turn.lua"
  local get = support.client(server.address)
  local load
  if support.has "wrk" then
    load = process.spawn { "wrk", "-t1", "-c4", "-d1800s", ("http://%s/builds?limit=1"):format(server.address) }
  end
  local times, failed = {}, 0
  for turn = 1, SAVES do
    process.write(target .. ".new", route(turn))
    assert(uv.fs_rename(target .. ".new", target))
    local began = socket.gettime()
    repeat
      local status, body = get "/turn"
      if status ~= 200 then failed = failed + 1 end
      assert(socket.gettime() - began < 10, "a save is not active after 10 s")
    until body == tostring(turn)
    times[turn] = (socket.gettime() - began) * 1000
  end
  for turn = 1, RELOADS do
    process.write(target .. ".new", route(SAVES + turn % TEXTS))
    assert(uv.fs_rename(target .. ".new", target))
    local status, body = get("/admin/reload", "POST")
    assert(status == 200, body)
  end
  local beside = "aim"
  if load then
    load:kill "sigint" -- wrk then prints its sums
    load:wait(10)
    local errors = load.output:match "Non%-2xx or 3xx responses: (%d+)"
    failed = failed + (tonumber(errors) or 0)
    local lost = load.output:match "Socket errors:([^\n]+)" or ""
    for count in lost:gmatch "%d+" do failed = failed + tonumber(count) end
    local requests = tonumber(load.output:match "(%d+) requests in")
    report { group = "reload", name = ("requests failed of %d in %d reloads"):format(requests, SAVES + RELOADS),
      value = failed, unit = "", beside = beside, limit = 0, ratio = failed, aim = 0, better = "lower" }
  end
  for _, row in ipairs { { "p50", 0.5 }, { "p99", 0.99 } } do
    local value = support.percentile(times, row[2])
    report { group = "reload", name = ("save to active, under load, %s"):format(row[1]), value = value, unit = "ms",
      beside = beside, limit = AIM_MS, ratio = value / AIM_MS, aim = 1, better = "lower" }
  end
  server:stop()
end
