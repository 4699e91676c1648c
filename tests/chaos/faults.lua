-- What goes wrong: a list of entries. Each is picked with its weight and does one thing; what it must undo later it
-- gives to `chaos:later`. `random(m)` is 1 to m, and comes from the seed.
local uv = require "luv"
local json = require "dkjson"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"
local http = require "tests.chaos.http"
local pipelines = require "tests.chaos.pipelines"

---@class Chaos
---@field world World
---@field load Load
---@field random fun(m: integer): integer
---@field later fun(self: Chaos, seconds: number, undo: fun())
---@field busy table<string, boolean> faults that are not undone yet, and must not come twice

---@class Fault
---@field name string
---@field weight integer
---@field once boolean|nil not again before it is undone
---@field run fun(chaos: Chaos): boolean|nil false: there was nothing to do it to

local function some(chaos, list) return list[chaos.random(#list)] end

-- A request to some server; what comes of it is not waited for.
local function ask(chaos, method, path, body)
  local awake = chaos.world:awake()
  if #awake == 0 then return false end
  http.send(some(chaos, awake).server.address, method, path, { body = json.encode(body) }, function() end)
end

local function of_some_build(chaos, suffix, body)
  local id = chaos.load:some_id()
  if not id then return false end
  return ask(chaos, "POST", "/builds/" .. id .. suffix, body)
end

local function psql(text)
  process.spawn({ "psql", "-XAtq", "-d", postgres.connection_string "postgres", "-c", text })
end

-- A session that does nothing, opened as the protocol has it (StartupMessage, version 3.0); trust needs no password.
local function open_session(path, database)
  local pipe = uv.new_pipe(false)
  pipe:connect(path, function(reason)
    if reason then return end
    local body = ("user\0postgres\0database\0%s\0\0"):format(database)
    pipe:read_start(function() end)
    pipe:write(string.pack(">I4I4", 8 + #body, 196608) .. body)
  end)
  return pipe
end

---@type Fault[]
local faults = {
  { name = "kill a server", weight = 5, run = function(chaos)
    local awake = chaos.world:awake()
    if #awake == 0 then return false end
    chaos.world:finish(some(chaos, awake), "sigkill", chaos.random(20) / 10 * chaos.world.lease)
  end },
  { name = "stop a server in order", weight = 2, run = function(chaos)
    local awake = chaos.world:awake()
    if #awake == 0 then return false end
    chaos.world:finish(some(chaos, awake), "sigterm", chaos.random(10) / 10)
  end },
  { name = "freeze a server past its lease", weight = 3, run = function(chaos)
    local awake = chaos.world:awake()
    if #awake < 2 then return false end
    local node = some(chaos, awake)
    chaos.world:freeze(node, true)
    chaos:later(chaos.world.lease * (1 + chaos.random(15) / 10), function()
      if node.stopped then chaos.world:freeze(node, false) end
    end)
  end },
  { name = "crash PostgreSQL", weight = 2, once = true, run = function(chaos)
    postgres.stop "sigquit"
    chaos:later(chaos.random(30) / 10, postgres.restart)
  end },
  { name = "kill backends", weight = 3, run = function()
    psql [[select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'chaos-%']]
  end },
  { name = "kill some backends", weight = 3, run = function()
    psql [[select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'chaos-%'
      and random() < 0.3]]
  end },
  { name = "use up connections", weight = 1, once = true, run = function(chaos)
    -- What the servers lose now, they don't get back for a while.
    local sessions = {}
    for i = 1, 60 do sessions[i] = open_session(postgres.directory() .. "/.s.PGSQL.5432", chaos.world.database) end
    psql "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'chaos-%'"
    chaos:later(1 + chaos.random(30) / 10, function() for _, each in ipairs(sessions) do each:close() end end)
  end },
  { name = "fill the disk", weight = 2, once = true, run = function(chaos)
    chaos.world:fill_disk()
    chaos:later(0.5 + chaos.random(20) / 10, function() chaos.world:free_disk() end)
  end },
  -- Some replies are lost when the mail is kept, some recipients are refused for now, some connections are not taken.
  { name = "disturb the mail server", weight = 2, once = true, run = function(chaos)
    chaos.world.mail:plan {
      { stage = "body", action = "keep-drop", chance = 0.3 },
      { stage = "rcpt", action = "451 4.3.0 later", chance = 0.2 },
      { stage = "connect", action = "drop", chance = 0.3 },
    }
    chaos:later(0.5 + chaos.random(20) / 10, function() chaos.world.mail:plan {} end)
  end },
  { name = "cancel a build", weight = 6, run = function(chaos)
    return of_some_build(chaos, "/cancel", { reason = "chaos" })
  end },
  { name = "retry a build", weight = 6, run = function(chaos) return of_some_build(chaos, "/retry", {}) end },
  { name = "change scripts", weight = 2, run = function(chaos)
    chaos.version = (chaos.version or 0) + 1
    for _, node in ipairs(chaos.world.nodes) do
      if chaos.random(2) == 1 then
        node.server:write("scripts", { ["lib/version.lua"] = pipelines.files("v" .. chaos.version)["lib/version.lua"] })
        if node.ready and not node.stopped then node.server:kill "sighup" end
      end
    end
  end },
  { name = "pause the queue", weight = 1, once = true, run = function(chaos)
    ask(chaos, "POST", "/queue/pause", { reason = "chaos" })
    chaos:later(1, function() ask(chaos, "POST", "/queue/resume", {}) end)
  end },
}

return faults
