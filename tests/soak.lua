-- A long run of builds that do nothing, through a real server: whether memory, descriptors, files, tables and indexes
-- stay what they are. lua5.4 tests/soak.lua [BUILDS]; `make soak` calls it.
--
-- The builds come in rounds by POST /builds. After each round the database's clock goes on by a day and an hour
-- (buildq.clock_offset), so that retention removes all of it, as it would in months; then the next one begins. A figure
-- is flat when the last quarter of the rounds has no more of it than the second, a little apart.
package.path = "./?.lua;" .. package.path
local alone = require "spec.support.alone"

local uv = require "luv"
local json = require "dkjson"
local process = require "spec.support.process"
local builds = require "spec.support.builds"
local sessions = require "spec.support.sessions"
local durable = require "tests.bench.durable"

local BUILDS <const> = math.tointeger(tonumber(arg[1] or "1000000")) or error "soak: BUILDS must be a number"
local ROUNDS <const> = math.max(4, math.min(20, BUILDS // 50000))
local CONNECTIONS <const>, BACKLOG <const> = 16, 2000 -- requests at a time; builds that wait at most
local CLEAN_SECONDS <const> = 300                     -- until retention and autovacuum are through with a round

local function say(...)
  print(string.format(...))
  io.stdout:flush()
end

-- Requests ----------------------------------------------------------------------------------------------------------

local REQUEST <const> = json.encode(builds.request { pipeline = "noop" })

---@class Poster requests over connections that are kept
---@field left integer to be sent
---@field accepted integer
---@field held boolean the queue is long enough
---@field connections {tcp: userdata, busy: boolean}[]
local Poster = {}
Poster.__index = Poster

local function post(self, connection)
  if self.left == 0 or self.held then return end
  self.left = self.left - 1
  connection.busy = true
  connection.tcp:write(self.text)
end

local function open(self, host, port)
  local connection, received = { tcp = uv.new_tcp(), busy = false }, ""
  connection.tcp:connect(host, port, function(reason)
    assert(not reason, reason)
    connection.tcp:read_start(function(failure, bytes)
      assert(not failure and (bytes or not connection.busy), failure or "the server has closed a connection")
      received = received .. (bytes or "")
      local head, body = received:match "^(HTTP/1%.1 .-\r\n\r\n)(.*)$"
      if not head or #body < tonumber(head:lower():match "\ncontent%-length: (%d+)") then return end
      assert(head:find "^HTTP/1%.1 202 ", received)
      self.accepted = self.accepted + 1
      connection.busy, received = false, ""
      post(self, connection)
    end)
  end)
  return connection
end

---@param address string
---@return Poster
function Poster.new(address)
  local host, port = address:match "^(.*):(%d+)$"
  local self = setmetatable({ left = 0, accepted = 0, held = false, connections = {} }, Poster)
  self.text = ("POST /builds HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s")
    :format(address, #REQUEST, REQUEST)
  for i = 1, CONNECTIONS do self.connections[i] = open(self, host, tonumber(port)) end
  return self
end

--- Lets all that are idle go on.
function Poster:turn()
  for _, connection in ipairs(self.connections) do if not connection.busy then post(self, connection) end end
end

function Poster:close()
  for _, connection in ipairs(self.connections) do connection.tcp:close() end
end

-- Rounds ------------------------------------------------------------------------------------------------------------

local function number(session, query) return tonumber((session:ask(query))) end

-- Submits `count` builds and waits for their ends; seconds.
local function work(server, session, count)
  local poster, began, pending = Poster.new(server.address), uv.hrtime(), 0
  poster.left = count
  while poster.accepted < count or pending > 0 do
    local until_ns = uv.hrtime() + 2e8
    while uv.hrtime() < until_ns and poster.accepted < count do
      process.pump(20)
      poster:turn()
    end
    pending = number(session, "select count(*) from build_queue where status in ('pending', 'building')")
    poster.held = pending > BACKLOG
    assert(server.child:alive(), "the server ended")
  end
  poster:close()
  assert(number(session, "select count(*) from build_queue where status <> 'success'") == 0, "builds have failed")
  return (uv.hrtime() - began) / 1e9
end

-- What the janitor and autovacuum have still to do.
local LEFT <const> = [[select (select count(*) from build_queue) + (select count(*) from build_events)
  + (select count(*) from build_attempts)
  + coalesce((select sum(n_dead_tup) from pg_stat_user_tables where n_dead_tup > 1000), 0)]]

-- Lets months pass: sessions of the server take the new clock when they connect again.
local function pass_time(server, session, round)
  session:ask(("alter database %s set buildq.clock_offset = '%d hours'"):format(server.database, 25 * round))
  session:ask [[select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend']]
  process.wait_for(function() return number(session, LEFT) == 0 end, CLEAN_SECONDS, "retention and autovacuum")
end

-- Figures -----------------------------------------------------------------------------------------------------------

local function count_of(path) return select(2, process.check({ "find", path, "-mindepth", "1" }):gsub("[^\n]+", "")) end

local function megabytes(session, fn, name)
  return number(session, ("select %s('%s') / 1048576.0"):format(fn, name))
end

-- Name, width, what it is, and how much more of it is still the same.
local COLUMNS <const> = {
  { "memory MB", function(server)
    return tonumber(process.read(("/proc/%d/status"):format(server.child.pid)):match "VmRSS:%s+(%d+)") / 1024
  end, 2 },
  { "descriptors", function(server) return count_of(("/proc/%d/fd"):format(server.child.pid)) end, 4 },
  { "files", function(server) return count_of(server.directory) end, 10 },
}
for _, name in ipairs { "build_queue", "build_attempts", "build_events" } do
  COLUMNS[#COLUMNS + 1] = { name .. " MB", function(_, session) return megabytes(session, "pg_table_size", name) end,
    1 }
  COLUMNS[#COLUMNS + 1] = { "indexes MB", function(_, session) return megabytes(session, "pg_indexes_size", name) end,
    1, name .. ", indexes MB" }
end

local function width(column) return math.max(#column[1], 9) end

local function head()
  local words = { ("%9s %9s"):format("builds", "builds/s") }
  for _, column in ipairs(COLUMNS) do words[#words + 1] = (" "):rep(width(column) - #column[1]) .. column[1] end
  say("%s", table.concat(words, "  "))
end

local function measure(server, session, done, rate)
  local row, words = {}, { ("%9d %9.0f"):format(done, rate) }
  for i, column in ipairs(COLUMNS) do
    row[i] = column[2](server, session)
    words[#words + 1] = ("%" .. width(column) .. (column[1]:find "MB" and ".1f" or ".0f")):format(row[i])
  end
  say("%s", table.concat(words, "  "))
  return row
end

-- The most of a figure in one quarter of the rounds.
local function most(rows, index, quarter)
  local value = 0
  for i = #rows * (quarter - 1) // 4 + 1, #rows * quarter // 4 do value = math.max(value, rows[i][index]) end
  return value
end

local function judge(rows)
  local growing = 0
  for i, column in ipairs(COLUMNS) do
    local early, late = most(rows, i, 2), most(rows, i, 4)
    local is_flat = late <= early * 1.1 + column[3]
    if not is_flat then growing = growing + 1 end
    say("%-28s %9.1f, at the end %9.1f: %s", column[4] or column[1], early, late, is_flat and "flat" or "IT GROWS")
  end
  say("%s", growing == 0 and "soak: everything is flat" or ("soak: %d figures grow"):format(growing))
  return growing == 0
end

local function main()
  local server = durable.server { config = { BuildQueue = { MaxConcurrentBuilds = 64, CompletedBuildRetentionDays = 1,
    HistoryRetentionDays = 1 } } }
  server:launch()
  server.config.BuildQueue.LogLevel = "warn" -- a line for each of a million builds says nothing
  server:write_config()
  server:kill "sighup"
  local session, rows, done = sessions.open(server.database), {}, 0
  say("soak: %d builds in %d rounds", BUILDS, ROUNDS)
  head()
  for round = 1, ROUNDS do
    local count = BUILDS * round // ROUNDS - done
    local seconds = work(server, session, count)
    done = done + count
    rows[round] = measure(server, session, done, count / seconds)
    pass_time(server, session, round)
  end
  assert(server:stop(60) == 0)
  return judge(rows)
end

local ok, good = xpcall(main, debug.traceback)
if not ok then io.stderr:write("soak: ", tostring(good), "\n") end
alone.finish()
uv.run "nowait"
os.exit(ok and good and 0 or 1)
