-- What the chaos happens to: one PostgreSQL, one mail server, some servers, one small disk that all of them share.
-- Nothing here waits for a server: one that can't start now is started again until it can.
local uv = require "luv"
local Server = require "spec.support.server"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"
local smtp = require "spec.support.smtp"
local pipelines = require "tests.chaos.pipelines"

local RESTART_SECONDS <const> = 0.5

---@class ChaosNode one of the servers, through all of its lives
---@field number integer
---@field server Server
---@field wanted boolean it should run
---@field stopped boolean it was sent SIGSTOP
---@field starts_at number when it is started again, if it should run and doesn't
---@field ready boolean it listens

---@class World
---@field nodes ChaosNode[]
---@field disk string mount point of the small disk
---@field database string
---@field lease integer seconds
---@field mail Sink takes the mails of all servers
---@field began number
---@field faults string[] what should not have happened to servers: their own ends
local World = {}
World.__index = World

local function now() return uv.hrtime() / 1e9 end

--- Seconds since the beginning.
function World:time() return now() - self.began end

local function configuration(number, disk, lease, mail)
  local own = ("%s/%d"):format(disk, number)
  for _, name in ipairs { "", "/state", "/builds", "/output" } do
    assert(uv.fs_mkdir(own .. name, tonumber("755", 8)))
  end
  local user = process.ordinary_user()
  if user then process.check { "chown", "-R", user.name .. ":", own } end
  return { BuildQueue = {
    StateDirectory = own .. "/state", WorkspaceDirectory = own .. "/builds", OutputDirectory = own .. "/output",
    LeaseSeconds = lease, MaxConcurrentBuilds = 4, MaxRetryAttempts = 2, RetryDelayMinutes = 0, PollIntervalSeconds = 1,
    StopGraceSeconds = 1, GracefulShutdownTimeoutSeconds = 3, DiskReserveMegabytes = 4, MaxLogMegabytes = 1,
    LogLevel = "debug", DeliveryRetrySeconds = 1, DeliveryRetryMaxSeconds = 2,
  }, Email = mail:config() }
end

--- Starts PostgreSQL and `count` servers, one after the other, and waits until all are ready.
---@param options {disk: string, count: integer, lease: integer}
---@return World
function World.new(options)
  local self = setmetatable({ nodes = {}, disk = options.disk, lease = options.lease, faults = {} }, World)
  -- Commits must outlive an immediate shutdown; the machine itself does not crash, so nothing is synced.
  postgres.use { "fsync=off", "full_page_writes=off", "max_connections=60", "shared_buffers=32MB" }
  self.mail = smtp.sink { keep = "ids" }
  for number = 1, options.count do
    local server = Server.new { config = configuration(number, options.disk, options.lease, self.mail),
      scripts = pipelines.files("first"), database = self.database }
    self.database = self.database or server.database
    local queue = server.config.BuildQueue
    queue.ConnectionString = ("%s application_name=chaos-%d"):format(queue.ConnectionString, number)
    server:write_config()
    server:launch()
    self.nodes[number] = { number = number, server = server, wanted = true, stopped = false, starts_at = 0,
      ready = true }
  end
  self.began = now()
  return self
end

--- The nodes for which `test` holds.
---@param test fun(node: ChaosNode): boolean
---@return ChaosNode[]
function World:which(test)
  local list = {}
  for _, node in ipairs(self.nodes) do if test(node) then list[#list + 1] = node end end
  return list
end

--- Those that should answer.
function World:awake()
  return self:which(function(node) return node.ready and not node.stopped and node.server.child:alive() end)
end

-- A server may end by itself only while it starts (no database, a full disk), and then by saying so.
local function note_end(self, node)
  local child = node.server.child
  if node.ended_by_us or child.noted then return end
  child.noted = true
  if child.signal ~= 0 or node.ready then
    self.faults[#self.faults + 1] = ("server %d ended by itself: code %d, signal %d\n%s"):format(node.number,
      child.code, child.signal, node.server:log(15))
  end
end

--- To be called often: starts what should run, notices who listens.
function World:tend()
  for _, node in ipairs(self.nodes) do
    if node.server.child:alive() then
      if not node.ready then node.ready = node.server:listens() end
    else
      note_end(self, node)
      node.ready, node.stopped = false, false
      if node.wanted and self:time() >= node.starts_at then
        node.ended_by_us = false
        node.starts_at = self:time() + RESTART_SECONDS
        node.server:spawn()
      end
    end
  end
end

---@param node ChaosNode
---@param signal string
---@param after number seconds until it is started again
function World:finish(node, signal, after)
  node.ended_by_us = true
  node.starts_at = self:time() + after
  node.server:kill(signal)
  if node.stopped and signal ~= "sigkill" then node.server:kill "sigcont" end
end

---@param node ChaosNode
---@param stopped boolean
function World.freeze(_, node, stopped)
  node.stopped = stopped
  node.server:kill(stopped and "sigstop" or "sigcont")
end

--- Writes what room there is on the disk into a file; `free_disk` gives it back.
function World:fill_disk()
  process.run { "sh", "-c", 'head -c 1G /dev/zero >"$1/filling" 2>/dev/null; chmod 600 "$1/filling"', "sh", self.disk }
end
function World:free_disk() uv.fs_unlink(self.disk .. "/filling") end

return World
