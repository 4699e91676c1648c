-- `require "buildq.test"` in a busted spec that `buildq test` runs: pipelines, routes, policies and modules are run in
-- the real runtime, beside this process. scripts/README.md ("Testing") is the manual.
local answers = require "buildq.answers"
local proxy = require "buildq.proxy"
local wire = require "buildq.wire"

---@class buildq.test
---@field exec Answers what commands answer
---@field http Answers what outgoing requests answer
---@field null table JSON's null
local test = { null = wire.null, clock = {} }
test.exec, test.http = answers.new()

local recording ---@type Recording|nil
local dirty, stale = false, true -- something to reset; the scripts are to be read anew
local written = {} ---@type table<string, string|false> path → what was there before
local url ---@type string

local function call(name, arguments)
  dirty = true
  if stale and name ~= "reload" then test.reload() end
  return wire.call(name, arguments)
end

-- The world
-- -------------------------------------------------------------------------------------------------------------

local function describe(what, request)
  if what == "exec" then
    request.line = table.concat(request.argv, " ")
    request.stdin = answers.text(request.stdin)
    local env = {}
    for _, entry in ipairs(request.env) do
      local name, value = entry:match "^([^=]*)=(.*)$"
      env[name] = value
    end
    request.env = env
  else
    request.line = request.method .. " " .. request.url
    local headers = {}
    for _, header in ipairs(request.headers) do
      local name, value = header:match "^([^:;]*)[:;] ?(.*)$"
      headers[name:lower()] = value
    end
    request.headers = headers
    request.body = answers.text(request.body)
  end
  return request
end

wire.on_ask = function(what, number, request)
  local asked = describe(what, request)
  if what == "http" and url and asked.url:sub(1, #url) == url then return { real = true, own = true } end
  return test[what]:answer(asked, function()
    return recording and answers.play(recording, what, number, asked)
  end)
end

wire.on_tell = function(number, result)
  if recording then answers.keep(recording, number, result) end
end

---Commands and requests that have no other answer are done really the first time (also with `buildq test --record`),
---and what they printed, answered and wrote (200 files, 4 MiB a command) is put into the file; from then on the file
---answers.
---@param path string
function test.record(path) recording = answers.recording(path) end

-- Builds
-- ----------------------------------------------------------------------------------------------------------------

---@class TestBuild what a build is given; all may be left out
---@field manifest? table as pipelines get it: normalised. {} when absent
---@field trusted? boolean true when absent
---@field tier? string
---@field architecture? string
---@field cloud? string
---@field configuration? string
---@field customer? {id?: string, name?: string, email?: string}
---@field metadata? table
---@field attempt? integer

---@class TestResult
---@field id string
---@field status "success"|"failed"|"timedout"|"cancelled"|"requeued"
---@field message? string why not, as errorMessage
---@field errorKind? string
---@field retryable boolean
---@field steps {name: string, percent: integer}[]
---@field artifacts? {name: string, kind: string, size: integer, sha256: string}[] of a success, as the next two
---@field provenance? table
---@field imageUrl? string
---@field log string
---@field workspace string its directory, kept until the tests are over
---@field output? string the directory of its artifacts
local Result = {}
Result.__index = Result

local function read_file(path)
  local file, message = io.open(path, "rb")
  if not file then error(message, 3) end
  local text = file:read "a"
  file:close()
  return text
end

---The text of an artifact.
---@param name string
---@return string
function Result:read(name)
  if not self.output then error("the build has no artifacts: " .. tostring(self.message), 2) end
  return read_file(self.output .. "/" .. name)
end

---The text of a file that is left in the workspace.
---@param path string
---@return string
function Result:file(path) return read_file(self.workspace .. "/" .. path) end

local function result_of(value) return setmetatable(value, Result) end

---Runs a pipeline to its end. Its commands and requests are answered by the spec; its files are real; what it sleeps
---passes at once.
---@param pipeline string
---@param build? TestBuild
---@return TestResult
function test.run(pipeline, build)
  return result_of(call("run", { pipeline = pipeline, build = build or {} }))
end

---@class RunningBuild
---@field id string
local Running = {}
Running.__index = Running

---Starts a pipeline; it goes on while the spec is in a call of this module.
---@param pipeline string
---@param build? TestBuild
---@return RunningBuild
function test.start(pipeline, build)
  return setmetatable({ id = call("start", { pipeline = pipeline, build = build or {} }) }, Running)
end

---Until its end. Sleeps pass at once.
---@return TestResult
function Running:wait() return result_of(call("wait", { build = self.id })) end

---{status=, step=, percent=} now, when it waits for the clock or has ended.
function Running:look()
  call "turn"
  return call("look", { build = self.id })
end

---@param how? "cancelled"|"timedout"|"requeued"
---@param message? string
function Running:stop(how, message) call("stop", { build = self.id, how = how, message = message }) end

-- Time
-- ------------------------------------------------------------------------------------------------------------------

local UNITS <const> = { s = 1, m = 60, h = 3600, d = 86400 }

local function seconds_of(text)
  local number, unit = tostring(text):match "^([%d.]+)([smhd]?)$"
  number = tonumber(number)
  if not number then error(("a time is a number of seconds, or like 90s, 5m, 2h, 1d; got %s"):format(text), 3) end
  return number * (UNITS[unit] or 1)
end

---Sets the clock forward, for scripts, for limits of builds and commands, and for the database. What becomes due on the
---way happens in its order.
---@param duration string|number "90s", "5m", "2h", "1d", or seconds
function test.clock.advance(duration)
  call("advance", { ms = math.floor(seconds_of(duration) * 1000) })
end

---By how many seconds the clock was set forward since the tests began.
---@return number
function test.clock.offset() return call "turn" / 1000 end

-- Scripts
-- ---------------------------------------------------------------------------------------------------------------

local function write_file(path, text)
  os.execute(("mkdir -p '%s'"):format((path:match "^(.*)/[^/]*$"):gsub("'", "'\\''")))
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

---Puts a script over the team's own for this test.
---@param path string below the scripts: "pipelines/x.lua"
---@param text string
function test.write(path, text)
  local target = wire.hello().scripts .. "/" .. path
  if written[path] == nil then
    local file = io.open(target, "rb")
    written[path] = file and file:read "a" or false
    if file then file:close() end
  end
  write_file(target, text)
  dirty, stale = true, true
end

---Reads the scripts again; raises file, line and reason when they can't be used.
---@return string generation
function test.reload()
  local generation = wire.call "reload"
  stale = false
  return generation
end

---Writes a manifest that manifestPath may name.
---@param name string "demo.json"
---@param manifest table|string
function test.manifest(name, manifest)
  write_file(wire.hello().manifests .. "/" .. name, type(manifest) == "table" and wire.encode(manifest) or manifest)
end

local function desk(operation, object, source, ...)
  return proxy.results(call("desk", { desk = {
    operation = operation, object = object, source = source, args = proxy.arguments(...) } }))
end
proxy.desk = desk

---A module of scripts/lib, or "buildq": what is called on it runs in the runtime.
---@param name string
---@return any
function test.require(name) return (desk("require", nil, nil, name)) end

---What a script returns: test.script "notifications/chat.lua".
---@param path string
---@return any
function test.script(path) return (desk("script", nil, nil, "scripts/" .. path)) end

---Runs Lua in the runtime; `...` are its arguments, what it returns comes back.
---@param source string
---@return any ...
function test.lua(source, ...) return desk("eval", nil, source, ...) end

---Calls a hook of scripts/policies/FILE.lua as the server does, within its budget.
---@param file string "fair"
---@param hook "priority"|"choose"|"retry"|"admission"|"schedule"|"estimate"
---@return any
function test.policy(file, hook, ...)
  return call("policy", { file = file, hook = hook, args = setmetatable({ ... }, { __jsontype = "array" }) })
end

-- The API
-- ---------------------------------------------------------------------------------------------------------------

---One HTTP request to the routes. `json` of the answer is its body, decoded, when it is JSON.
---@param method string
---@param path string
---@param body? string|table a table is sent as JSON
---@param headers? table<string, string>
---@return {status: integer, headers: table<string, string>, body: string, json: any}
function test.request(method, path, body, headers)
  url = url or wire.hello().hello
  local all = {}
  if type(body) == "table" then body, all["content-type"] = wire.encode(body), "application/json" end
  for name, value in pairs(headers or {}) do all[name:lower()] = value end
  local answer = desk("eval", nil, "return require('buildq').http.request(...)",
    { url = url .. path, method = method, headers = all, body = body, timeout = 600, max_bytes = 8 * 1024 * 1024 })
  if (answer.headers["content-type"] or ""):find "json" then answer.json = wire.decode(answer.body) end
  return answer
end

function test.get(path, headers) return test.request("GET", path, nil, headers) end
function test.post(path, body, headers) return test.request("POST", path, body or {}, headers) end

-- The queue
-- -------------------------------------------------------------------------------------------------------------

local has_database = false

---Starts a private PostgreSQL and the whole server on it, for the rest of the run: builds can be enqueued then. Takes a
---second the first time. Its rows are removed before each test.
function test.database()
  if not has_database then
    url = call "database"
    has_database = true
  end
end

---Rows of a statement in that database.
---@param statement string with $1, $2, …
---@return table[] rows
function test.sql(statement, ...)
  return (desk("eval", nil, "return require('buildq').db.query(...)", statement, ...))
end

local SUBMISSION <const> = {
  customerId = "acme", customerName = "Acme", customerEmail = "ops@acme.example", configurationName = "default",
  tier = "pro", architecture = "linux-x64", cloudProvider = "none",
}

---POST /builds with these fields over sensible ones. Raises what it is refused with.
---@param fields table {pipeline=, manifest=, …}
---@return string id
function test.enqueue(fields)
  local body = {}
  for name, value in pairs(SUBMISSION) do body[name] = value end
  for name, value in pairs(fields) do body[name] = value end
  if not body.manifest and not body.manifestPath then body.manifest = {} end
  local answer = test.post("/builds", body)
  if answer.status ~= 202 then error(("POST /builds: %d %s"):format(answer.status, answer.body), 2) end
  return answer.json.jobId
end

---The build as GET /builds/{id} gives it, once it has ended, or waits for a retry. Sleeps pass at once.
---@param id string
---@return table
function test.settle(id)
  local last
  for _ = 1, 6000 do
    call("turn", { jump = true })
    last = test.get("/builds/" .. id).json
    local waits = last.status == "pending" and last.nextAttemptAt ~= nil and last.nextAttemptAt ~= wire.null
    if waits or (last.status ~= "pending" and last.status ~= "building") then return last end
  end
  error(("the build %s is still %s, at step %s"):format(id, last.status, tostring(last.currentStep)), 2)
end

---What the build owes its customer so far: the events that notifications are made of, oldest first.
---@param id string
---@return {event: string, round: integer, attempt: integer, state: string, data: table}[]
function test.notifications(id)
  return test.sql("select event, round, attempt, state, data from outbox where build_id = $1 order by id", id)
end

-- Between tests
-- ---------------------------------------------------------------------------------------------------------

function test.finish()
  if recording then answers.save(recording) end
end

function test.reset()
  recording = nil
  test.exec, test.http = answers.new()
  if not dirty then return end
  for path, text in pairs(written) do
    local target = wire.hello().scripts .. "/" .. path
    if text then write_file(target, text) else os.remove(target) end
    stale = true
  end
  written = {}
  if has_database then
    for _, row in ipairs(test.sql "select id from build_queue where status = 'building'") do
      test.post("/builds/" .. row.id .. "/cancel")
      test.settle(row.id)
    end
    test.sql "delete from build_queue"
  end
  wire.call "reset"
  dirty = false
end

require "buildq.asserts"(test)

return test
