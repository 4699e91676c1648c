-- A real buildq on a real PostgreSQL, for whole-server specs.
--
--   local Server = require "spec.support.server"
--   local server = Server.start { config = { BuildQueue = { MaxConcurrentBuilds = 1 } } }
--   local answer = server:post("/builds", { customerId = "c1", ... })      -- a table is sent as JSON
--   assert.equal(202, answer.status)
--   server:wait_for(function() return server:get("/builds/" .. answer.json.jobId).json.status == "success" end, 30)
--   assert.equal("1", server:sql "select count(*) from build_queue")
--
-- Each server has a directory of its own (state, builds, output, manifests, scripts, templates), a free port and a
-- database of its own in the spec file's cluster. All of it ends with the spec file, also when a spec errors. When a
-- test fails, the log lines that the running servers wrote during it are shown.
local uv = require "luv"
local busted = require "busted"
local json = require "dkjson"
local socket = require "socket"
local http = require "socket.http"
local ltn12 = require "ltn12"
local process = require "spec.support.process"
local postgres = require "spec.support.postgres"

---@class ServerOptions
---@field config? table<string, table<string, any>> sections of appsettings.json, laid over the harness's own
---@field env? table<string, string> more environment
---@field database? string share the database of another server (its .database); false: none, so the private cluster
---@field scripts? table<string, string> files of ScriptDirectory, path → text
---@field templates? table<string, string> files of TemplateDirectory
---@field manifests? table<string, string|table> files of ManifestDirectory; a table is written as JSON
---@field arguments? string[] after `serve`
---@field ready? boolean false: don't wait for /readyz, only for the port
---@field program? string another program than build/buildq

---@class Server
---@field directory string
---@field database string|nil
---@field address string "127.0.0.1:34567"; nil before it listens
---@field port integer
---@field log_from integer where the log of the last start begins, in bytes
---@field child Child
---@field listed boolean its log is shown when a test fails
local Server = {}
Server.__index = Server

local servers = {} ---@type Server[] that have been started, also those stopped since

local EMPTY <const> = setmetatable({}, { __jsontype = "object" })
local DIRECTORIES <const> = { "state", "builds", "output", "manifests", "scripts", "templates" }
-- What may reach the server from our own environment: how to find programs, and the sanitizers' options.
local PASSED <const> = {
  "PATH", "LANG", "LC_ALL", "TZ", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS",
}

--- The program under test.
---@return string
function Server.program()
  local build = os.getenv "BUILDQ_BUILD" or "build"
  return (build:sub(1, 1) == "/" and build or uv.cwd() .. "/" .. build) .. "/buildq"
end

local function write_files(directory, files)
  for path, text in pairs(files or {}) do
    local folder = (directory .. "/" .. path):match "^(.*)/[^/]*$"
    process.check { "mkdir", "-p", folder }
    process.write(directory .. "/" .. path, type(text) == "table" and json.encode(text) or text)
  end
end

--- Writes files below one of the server's directories while it runs, each by rename, and gives them to its user.
---@param kind "scripts"|"templates"|"manifests"
---@param files table<string, string|table>
function Server:write(kind, files)
  for path, text in pairs(files) do
    local target = ("%s/%s/%s"):format(self.directory, kind, path)
    process.check { "mkdir", "-p", (target:match "^(.*)/[^/]*$") }
    process.write(target .. ".new", type(text) == "table" and json.encode(text) or text)
    assert(uv.fs_rename(target .. ".new", target))
  end
end

--- The configuration in effect, as it is in appsettings.json; change it and call write_config, then SIGHUP or restart.
function Server:write_config()
  process.write(self.directory .. "/appsettings.json", json.encode(self.config, { indent = true }))
end

--- Makes directories and configuration without starting anything.
---@param options? ServerOptions
---@return Server
function Server.new(options)
  options = options or {}
  local self = setmetatable({ options = options, directory = process.directory() }, Server)
  for _, name in ipairs(DIRECTORIES) do assert(uv.fs_mkdir(self.directory .. "/" .. name, tonumber("755", 8))) end
  write_files(self.directory .. "/scripts", options.scripts)
  write_files(self.directory .. "/templates", options.templates)
  write_files(self.directory .. "/manifests", options.manifests)
  local queue = {
    Listen = "127.0.0.1:0",
    StateDirectory = self.directory .. "/state",
    WorkspaceDirectory = self.directory .. "/builds",
    OutputDirectory = self.directory .. "/output",
    ManifestDirectory = self.directory .. "/manifests",
    ScriptDirectory = self.directory .. "/scripts",
    TemplateDirectory = self.directory .. "/templates",
    DiskReserveMegabytes = 0,
  }
  if options.database ~= false then
    self.database = options.database or postgres.create()
    queue.ConnectionString = postgres.connection_string(self.database)
  end
  local user = process.ordinary_user()
  if user then
    queue.RunAsUser = user.name
    process.check { "chown", "-R", user.name .. ":", self.directory }
  end
  self.config = { BuildQueue = queue }
  for section, values in pairs(options.config or {}) do
    self.config[section] = self.config[section] or {}
    for name, value in pairs(values) do self.config[section][name] = value end
  end
  self:write_config()
  return self
end

function Server:environment()
  local env = { HOME = self.directory }
  for _, name in ipairs(PASSED) do env[name] = os.getenv(name) end
  for name, value in pairs(self.options.env or {}) do env[name] = value end
  return env
end

--- Runs another command of the program with this server's configuration, to its end.
---@param argv string[] such as { "status", id, "--json" }
---@param options? SpawnOptions
---@return {code: integer, output: string, errors: string}
function Server:command(argv, options)
  options = options or {}
  options.env = options.env or self:environment()
  local all = { self.options.program or Server.program(), argv[1], "--config", self.directory .. "/appsettings.json",
    table.unpack(argv, 2) }
  return process.run(all, options)
end

--- Starts (or starts again) the server; doesn't wait for anything.
function Server:spawn()
  local argv = { self.options.program or Server.program(), "serve", "--config", self.directory .. "/appsettings.json",
    table.unpack(self.options.arguments or {}) }
  self.log_from = #process.read(self:log_path())
  self.child = process.spawn(argv, { env = self:environment(), cwd = self.directory, to = self:log_path() })
  if not self.listed then
    servers[#servers + 1] = self
    self.listed = true
  end
end

--- Whether it listens since `spawn`; from then on it has an address and a port.
---@return boolean
function Server:listens()
  local text = process.read(self:log_path()):sub(self.log_from + 1)
  self.address = text:match 'listening[^\n]-address"?[=:]"?([%w%.:%[%]]+)'
  self.port = self.address and tonumber(self.address:match ":(%d+)$")
  return self.address ~= nil
end

--- Starts (or starts again) the server and waits until it is ready.
function Server:launch()
  self:spawn()
  process.wait_for(function()
    if not self.child:alive() then
      process.give_up(("the server ended with %d while starting:\n%s"):format(self.child.code, self:log(40)))
    end
    return self:listens()
  end, 30, function() return "the server to listen:\n" .. self:log(40) end)
  if self.options.ready ~= false and self.config.BuildQueue.EnableHealthChecks ~= false then
    self:wait_for(function() return self:get("/readyz").status == 200 end, 30, "/readyz")
  end
  return self
end

--- A new server, started and ready.
---@param options? ServerOptions
---@return Server
function Server.start(options) return Server.new(options):launch() end

function Server:log_path() return self.directory .. "/server.log" end

--- The whole log, or its last `lines`.
---@param lines? integer
---@return string
function Server:log(lines)
  local text = process.read(self:log_path())
  if not lines then return text end
  local all = {}
  for line in text:gmatch "[^\n]+" do all[#all + 1] = line end
  return table.concat(all, "\n", math.max(1, #all - lines + 1))
end

--- Waits for a condition; what the server logged last is part of the error.
function Server:wait_for(condition, seconds, what)
  return process.wait_for(condition, seconds, function()
    local name = type(what) == "function" and what() or what or "the condition"
    return ("%s; the log ends in:\n%s\n"):format(name, self:log(20))
  end)
end

---@param signal string such as "sigkill", "sighup"
function Server:kill(signal) self.child:kill(signal) end

--- Stops it in order (SIGTERM); by force, which is an error, after `seconds` (default 20). Returns the exit code.
---@param seconds? number
---@return integer
function Server:stop(seconds)
  if not self.child:alive() then return self.child.code end
  self.child:kill "sigterm"
  local ok, message = pcall(self.child.wait, self.child, seconds or 20)
  if not ok then
    self.child:kill "sigkill"
    self.child:wait(10)
    error(message .. "\n" .. self:log(40), 2)
  end
  return self.child.code
end

---@class Answer
---@field status integer
---@field headers table<string, string> names in lower case
---@field body string
---@field json any the body, decoded, when it is JSON; null is dkjson's null

--- One request on a connection of its own.
---@param method string
---@param path string
---@param body? string|table a table is sent as JSON
---@param headers? table<string, string>
---@return Answer
function Server:request(method, path, body, headers)
  local all = { ["connection"] = "close" }
  if type(body) == "table" then
    body = json.encode(body)
    all["content-type"] = "application/json"
  end
  if body then all["content-length"] = tostring(#body) end
  for name, value in pairs(headers or {}) do all[name:lower()] = value end
  local chunks = {}
  local _, status, answered = http.request {
    url = ("http://%s%s"):format(self.address, path), method = method, headers = all, redirect = false,
    source = body and ltn12.source.string(body) or nil, sink = ltn12.sink.table(chunks),
    create = function()
      local connection = socket.tcp()
      connection:settimeout(30)
      return connection
    end,
  }
  if type(status) ~= "number" then error(("%s %s: %s"):format(method, path, tostring(status)), 2) end
  local answer = { status = status, headers = answered, body = table.concat(chunks) }
  if (answered["content-type"] or ""):find "json" then answer.json = json.decode(answer.body, 1, json.null) end
  return answer
end

function Server:get(path, headers) return self:request("GET", path, nil, headers) end
function Server:post(path, body, headers) return self:request("POST", path, body or EMPTY, headers) end
function Server:patch(path, body, headers) return self:request("PATCH", path, body, headers) end

--- A raw connection (luasocket), for what no client library would send.
---@param seconds? number time limit of each receive, default 10
function Server:connect(seconds)
  local connection = socket.tcp()
  connection:settimeout(seconds or 10)
  assert(connection:connect(self.address:match "^%[?(.-)%]?:%d+$", self.port))
  return connection
end

--- Sends bytes as they are and reads until the server closes; returns all it said.
--- "no end" is added when the connection is still open after `seconds` (default 10).
---@param bytes string
---@param seconds? number
---@param shut? boolean close our sending side after the bytes
---@return string
function Server:raw(bytes, seconds, shut)
  local connection = self:connect(seconds)
  local at = 1
  while at <= #bytes do -- a server that has answered and closed may take no more
    local sent, why, partial = connection:send(bytes, at)
    if not sent and why ~= "timeout" then break end
    at = (sent or partial) + 1
  end
  if shut then connection:shutdown "send" end
  local whole, why, part = connection:receive "*a"
  connection:close()
  return (whole or part) .. (why == "timeout" and "no end" or "")
end

--- The status codes in what `raw` gave, in order.
---@param answer string
---@return integer[]
function Server.statuses(answer)
  local codes = {}
  for code in answer:gmatch "HTTP/1%.1 (%d%d%d) " do codes[#codes + 1] = tonumber(code) end
  return codes
end

--- SQL in the server's database, through psql: rows as lines, columns joined by "|".
---@param text string
---@return string
function Server:sql(text) return postgres.sql(self.database, text) end

--- The rows of a SELECT as tables.
---@param query string without a semicolon
---@return table[]
function Server:rows(query)
  return json.decode(self:sql(("select coalesce(json_agg(t), '[]') from (%s) t"):format(query)), 1, nil)
end

-- A failed test shows what the servers said while it ran.
local began = {}
busted.subscribe({ "test", "start" }, function()
  for _, server in ipairs(servers) do began[server] = #server:log() end
  return nil, true
end)
busted.subscribe({ "test", "end" }, function(_, _, status)
  if status == "failure" or status == "error" then
    for _, server in ipairs(servers) do
      local text = server:log():sub((began[server] or 0) + 1)
      if #text > 20000 then text = "[…]" .. text:sub(-20000) end
      if text ~= "" then
        print(("# log of the server in %s:\n# %s"):format(server.directory, (text:gsub("\n(.)", "\n# %1"))))
      end
    end
  end
  return nil, true
end)
busted.subscribe({ "file", "end" }, function()
  servers, began = {}, {}
  return nil, true
end)

return Server
