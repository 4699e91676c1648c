-- The API against PostgreSQL: reading one build, beside nginx that answers a constant; and writing many.
local process = require "spec.support.process"
local support = require "tests.bench.support"
local durable = require "tests.bench.durable"
local nginx = require "tests.bench.nginx"
local builds = require "spec.support.builds"
local json = require "dkjson"

local ROUNDS <const>, SECONDS <const> = 5, 2
local POSTED <const> = 10000 -- rows a second, at least

local POST <const> = [[
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = %q
]]

-- PostgreSQL's processes, the later ones with it, and wrk have the other core.
local function pin(server, database)
  process.check { "taskset", "-a", "-p", "-c", "0", tostring(server.child.pid) }
  process.check { "taskset", "-p", "-c", "1", tostring(database) }
  local children = process.run { "pgrep", "-P", tostring(database) }.output
  for pid in children:gmatch "%d+" do process.run { "taskset", "-p", "-c", "1", pid } end
end

return function(report)
  if not support.has "wrk" then return "wrk is not installed" end
  local server = durable.server { config = { BuildQueue = { MaxConnectionsPerPeer = 400 } } }
  server:launch()
  server:post("/queue/pause", { reason = "bench" })
  local id = builds.submit(server, { pipeline = "noop" })
  local ours = { url = ("http://%s/builds/%s"):format(server.address, id), rates = {} }
  support.wrk(ours.url, 1)
  pin(server, durable.postmaster())
  local other, address = nginx.start()
  if other then
    local limit = { url = ("http://%s/constant"):format(address), rates = {} }
    local ratios = {}
    support.wrk(limit.url, 1)
    for round = 1, ROUNDS do
      for _, side in ipairs { ours, limit } do side.rates[round] = support.wrk(side.url, SECONDS) end
      ratios[round] = ours.rates[round] / limit.rates[round]
    end
    other:kill()
    other:wait()
    report { group = "API", name = "GET /builds/{id} from PostgreSQL", value = support.median(ours.rates), unit = "/s",
      beside = "nginx's Lua module, a constant", limit = support.median(limit.rates), ratio = support.median(ratios),
      aim = 0.3, better = "higher" }
  end
  process.run { "taskset", "-a", "-p", "-c", "0,1", tostring(server.child.pid) }
  local script = process.directory() .. "/post.lua"
  process.write(script, POST:format(json.encode(builds.request { pipeline = "noop" })))
  local before = tonumber(server:sql "select count(*) from build_queue")
  local rates = {}
  for round = 1, 3 do
    local output = process.check({ "wrk", "-t1", "-c64", ("-d%ds"):format(SECONDS), "-s", script,
      ("http://%s/builds"):format(server.address) })
    assert(not output:find "Non%-2xx" and not output:find "Socket errors", output)
    rates[round] = assert(tonumber(output:match "Requests/sec:%s+([%d.]+)"), output)
  end
  assert(tonumber(server:sql "select count(*) from build_queue") > before)
  local rate = support.median(rates)
  report { group = "API", name = "POST /builds, durable, 64 connections", value = rate, unit = "/s",
    beside = "what it is to take", limit = POSTED, ratio = rate / POSTED, aim = 1, better = "higher" }
  server:stop(60)
  return not other and "nginx with its Lua module is not installed: the row of GET" or nil
end
