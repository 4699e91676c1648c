-- From the request that enqueues to the first line of the pipeline, with nothing else to do, one at a time; beside
-- graphile-worker's from adding a job to its task.
local socket = require "socket"
local json = require "dkjson"
local builds = require "spec.support.builds"
local support = require "tests.bench.support"
local durable = require "tests.bench.durable"
local graphile = require "tests.bench.graphile"

local COUNT <const> = 300

-- Its first line bears the time, cut to milliseconds: half of one is added.
local PIPELINE <const> = [[return { run = function(build) build:log "begun" end }]]

-- Seconds since 1970 of a line's time; the day of the request is near enough to tell the hour.
local function seconds_of(line, near)
  local hour, minute, second = line:match "T(%d+):(%d+):([%d.]+)Z"
  local at = hour * 3600 + minute * 60 + second + 0.0005
  local day = near - near % 86400
  return day + at + (day + at < near - 43200 and 86400 or 0)
end

local function post(server)
  local connection = server:connect(30)
  connection:setoption("tcp-nodelay", true)
  local body = json.encode(builds.request { pipeline = "first" })
  local head = "POST /builds HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
  local request = head:format(server.address, #body) .. body
  return function()
    local began = socket.gettime()
    assert(connection:send(request))
    local status, length = assert(connection:receive "*l"), 0
    for line in function() return connection:receive "*l" end do
      if line == "" then break end
      length = tonumber(line:lower():match "^content%-length: (%d+)") or length
    end
    local answer = assert(connection:receive(length))
    assert(status:find "202", status)
    return json.decode(answer).jobId, began
  end
end

return function(report)
  local server = durable.server { scripts = { ["pipelines/first.lua"] = PIPELINE } }
  server:launch()
  local enqueue, times = post(server), {}
  for i = 1, COUNT + 20 do
    local id, began = enqueue()
    builds.await(server, id, "success")
    local at = seconds_of(builds.log(server, id), began)
    if i > 20 then times[#times + 1] = (at - began) * 1000 end
  end
  server:stop()
  local directory = graphile.directory()
  local theirs = directory and json.decode(graphile.run(directory, "ordinary", "latency" .. COUNT))
  for _, row in ipairs { { "p50", 0.5, 1.5 }, { "p99", 0.99, 4 } } do
    local name, share, aim = row[1], row[2], row[3]
    local value = support.percentile(times, share)
    report { group = "latency", name = "enqueue to first line, " .. name, value = value, unit = "ms",
      beside = "what it is to be below", limit = aim, ratio = value / aim, aim = 1, better = "lower" }
    if theirs then
      local limit = support.percentile(theirs, share)
      report { group = "latency", name = "enqueue to first line, " .. name, value = value, unit = "ms",
        beside = "graphile-worker", limit = limit, ratio = value / limit, aim = 1, better = "lower" }
    end
  end
  return not directory and "npm can't bring graphile-worker: its rows" or nil
end
