-- A child's output on its way to the log file of its attempt, MB a second; beside the same child before `cat > file`.
-- Then the same with a hundred who follow that log, beside without them.
local uv = require "luv"
local process = require "spec.support.process"
local builds = require "spec.support.builds"
local Server = require "spec.support.server"
local support = require "tests.bench.support"
local durable = require "tests.bench.durable"

local MEGABYTES <const> = math.tointeger(tonumber(os.getenv "BENCH_MEGABYTES" or "128"))
local FOLLOWED <const> = math.max(1, MEGABYTES // 8) -- a hundred times that goes out
local FOLLOWERS <const>, ROUNDS <const>, SECONDS <const> = 100, 3, 300

local WRITER <const> = "yes 'src/server/catalogue/Feature.cs(120,17): warning CS8602: one of many lines' | head -c %d"

local PIPELINE <const> = [[
  local buildq = require "buildq"
  return { run = function(build)
    build:log "waiting"
    while not buildq.fs.exists "go" do buildq.sleep(0.02) end
    build:log(("began %.6f"):format(buildq.clock.unix()))
    build:exec { argv = { "sh", "-c", buildq.fs.read "go" } }
  end }
]]

local function writer(megabytes) return WRITER:format(megabytes * 1048576) end

-- `curl` throws away what comes, and says how much it was.
local function follow(server, id)
  local list = {}
  for i = 1, FOLLOWERS do
    list[i] = process.spawn { "curl", "-sN", "-o", "/dev/null", "-w", "%{http_code} %{size_download}",
      ("http://%s/builds/%s/log?follow=true"):format(server.address, id) }
  end
  server:wait_for(function()
    local open = server:get("/metrics").body:match "\nbuildq_http_connections (%d+)"
    return tonumber(open) > FOLLOWERS
  end, 60, "all followers")
  return list
end

-- From the child's start to the end of the attempt, whose log is complete then.
local function measure(server, megabytes, is_followed)
  local id = builds.submit(server, { pipeline = "writes" })
  builds.await(server, id, "building")
  server:wait_for(function() return builds.log(server, id):find "waiting" end, 30, "the log's first line")
  local followers = is_followed and follow(server, id) or {}
  local path = builds.workspace(server, id) .. "/go"
  process.write(path .. ".new", writer(megabytes))
  assert(uv.fs_rename(path .. ".new", path))
  durable.wait(server) -- who asks again and again takes a core from it
  builds.await(server, id, "success", SECONDS)
  local ended = tonumber(server:sql(("select extract(epoch from ended_at) from build_attempts where build_id = '%s'")
    :format(id)))
  local log = ("%s/state/logs/%s/attempt-1.log"):format(server.directory, id)
  local size = uv.fs_stat(log).size
  local began = process.check({ "head", "-c", "4096", log }):match "began ([%d.]+)"
  assert(size > megabytes * 1048576, "the log is not whole")
  for _, follower in ipairs(followers) do
    follower:wait(SECONDS)
    local status, bytes = follower.output:match "^(%d+) (%d+)$"
    assert(status == "200" and tonumber(bytes) == size, ("a follower got %s of %d bytes"):format(bytes, size))
  end
  return megabytes * 1.048576 / (ended - tonumber(began))
end

local function limit(directory)
  local path, began = directory .. "/written", uv.hrtime()
  process.check({ "sh", "-c", ("%s | cat > '%s'"):format(writer(MEGABYTES), path) }, { seconds = SECONDS })
  local seconds = (uv.hrtime() - began) / 1e9
  assert(uv.fs_stat(path).size == MEGABYTES * 1048576)
  assert(uv.fs_unlink(path))
  return MEGABYTES * 1.048576 / seconds
end

return function(report)
  local server = Server.start { scripts = { ["pipelines/writes.lua"] = PIPELINE }, config = { BuildQueue = {
    MaxLogMegabytes = 4 * MEGABYTES + 4, MaxRetryAttempts = 0, EnableNotifications = false } } }
  local directory = process.directory()
  local ours, limits, ratios = {}, {}, {}
  for round = 1, ROUNDS do
    ours[round] = measure(server, MEGABYTES)
    limits[round] = limit(directory)
    ratios[round] = ours[round] / limits[round]
  end
  report { group = "log", name = "from one child to the log", value = support.median(ours), unit = "MB/s",
    beside = "cat > file", limit = support.median(limits), ratio = support.median(ratios), aim = 0.25,
    better = "higher" }
  if not support.has "curl" then return "curl is not installed: the row of followers" end
  ours, limits, ratios = {}, {}, {}
  for round = 1, ROUNDS do
    limits[round] = measure(server, FOLLOWED)
    ours[round] = measure(server, FOLLOWED, true)
    ratios[round] = ours[round] / limits[round]
  end
  server:stop()
  report { group = "log", name = ("with %d who follow it"):format(FOLLOWERS), value = support.median(ours),
    unit = "MB/s", beside = "with none", limit = support.median(limits), ratio = support.median(ratios), aim = 0.1,
    better = "higher" }
end
