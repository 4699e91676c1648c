-- Where torture happens: one PostgreSQL, one server with the wrapped program, a mail server, a web server; and what is
-- looked at after each failed call: whether the server lives, what it said, what it left behind.
local uv = require "luv"
local json = require "dkjson"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"
local smtp = require "spec.support.smtp"
local http = require "tests.chaos.http"
local control = require "tests.torture.control"
local receiver = require "tests.torture.receiver"

local SETTLE_SECONDS <const> = 20 -- until processes, files and descriptors of what has ended are gone
local LEAK_SECONDS <const> = 30
local ANSWER_SECONDS <const> = 15

-- A build that does a bit of everything: files, a command, a request, an artifact, a step.
local PIPELINE <const> = [[
local buildq = require "buildq"
return { run = function(build)
  buildq.fs.write("in.txt", "input\n")
  build:step("Work", { at = 30 }, function()
    build:exec { argv = { "sh", "-c", "cat in.txt; echo output >out.txt" } }
  end)
  build:step("Ask", { at = 60 }, function()
    build:log(buildq.http.request { url = "http://%s/ask", headers = { ["X-Build"] = build.id } }.body)
  end)
  build:artifact "out.txt"
end }
]]

---@class TortureWorld
---@field server Server
---@field control Control
---@field descriptors integer how many it has open when nothing happens
local World = {}
World.__index = World

-- Known before the log says it: the line may be what could not be written.
local function free_port()
  local tcp = uv.new_tcp()
  assert(tcp:bind("127.0.0.1", 0))
  local port = tcp:getsockname().port
  tcp:close()
  return port
end

--- Makes everything; the server isn't started yet.
---@return TortureWorld
function World.new()
  local self = setmetatable({}, World)
  self.address = receiver.start()
  self.control = control.new(process.directory() .. "/control")
  local sanitizers = "exitcode=99:detect_stack_use_after_return=0:suppress_equal_pcs=0"
  self.program = Server.program() .. "-torture"
  self.server = Server.new {
    program = self.program,
    scripts = { ["pipelines/work.lua"] = PIPELINE:format(self.address), ["pipelines/quick.lua"] =
      "return { run = function(build) build:log 'quick' end }\n" },
    env = { BUILDQ_TORTURE = self.control.path, ASAN_OPTIONS = sanitizers, UBSAN_OPTIONS = "print_stacktrace=1",
      LSAN_OPTIONS = "print_suppressions=0" },
    config = {
      BuildQueue = { Listen = "127.0.0.1:" .. free_port(), MaxConcurrentBuilds = 2, MaxRetryAttempts = 2,
        RetryDelayMinutes = 0, PollIntervalSeconds = 1, LeaseSeconds = 3, StopGraceSeconds = 1,
        GracefulShutdownTimeoutSeconds = 3, DeliveryRetrySeconds = 1, DeliveryRetryMaxSeconds = 1,
        MaxConcurrentDeliveries = 2 },
      Email = smtp.sink():config(),
      Notifications = { WebhookUrl = ("http://%s/hook"):format(self.address), AllowedNetworks = { "127.0.0.1" },
        WebhookSecrets = { "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk" }, WebhookEvents = { "completed", "failed" } },
    },
  }
  return self
end

--- Starts the server, if it doesn't run, and waits until nothing happens any more.
function World:launch()
  if self.server.child and self.server.child:alive() then return end
  self.control:disarm()
  self.server:launch()
  self:finish_build(self:submit "work") -- what is made once, at the first use, is there now
  self:settle()
  self.descriptors = self:count_descriptors()
  self.mark = #self.server:log()
end

--- One request; the answer, or nil and the reason when none came.
---@return ChaosAnswer?, string?
function World:ask(method, path, body, headers)
  local answer, reason, over
  http.send(self.server.address, method, path, { body = body and json.encode(body), headers = headers,
    seconds = ANSWER_SECONDS }, function(...)
    answer, reason = ...
    over = true
  end)
  while not over do process.pump(20) end
  if answer and answer.head:lower():find("\ntransfer-encoding: chunked", 1, true)
    and not answer.body:find "\r\n0\r\n\r\n$" and answer.body ~= "0\r\n\r\n" then
    return nil, "the answer broke off"
  end
  return answer, reason
end

local keys = 0
function World.new_key()
  keys = keys + 1
  return "torture-" .. keys
end

function World:post_build(pipeline, key, customer)
  return self:ask("POST", "/builds", builds.request { pipeline = pipeline, configurationName = key,
    customerId = customer }, { ["Idempotency-Key"] = key })
end

--- Submits a build as a client does that wants it done: again, until it is accepted.
---@return string? id, ChaosAnswer[] refused
function World:submit(pipeline, customer)
  local key, refused = World.new_key(), {}
  for _ = 1, 20 do
    local answer, reason = self:post_build(pipeline, key, customer)
    if answer and answer.status == 202 then return json.decode(answer.body).jobId, refused end
    refused[#refused + 1] = answer or { status = 0, body = reason }
    if not self.server.child:alive() then break end
    process.pump(50)
  end
  return nil, refused
end

--- Waits for the final state of a build; nil when it has none in time or the server has ended.
---@return table? build
function World:finish_build(id, seconds)
  local build
  local ok = pcall(process.wait_for, function()
    if not self.server.child:alive() then return true end
    local answer = self:ask("GET", "/builds/" .. id)
    build = answer and answer.status == 200 and json.decode(answer.body)
    return build and build.status ~= "pending" and build.status ~= "building"
  end, seconds or 20)
  return ok and build or nil
end

-- The numbers in a directory of /proc.
local function entries(path)
  local list, handle = {}, uv.fs_scandir(path)
  while handle do
    local name = uv.fs_scandir_next(handle)
    if not name then break end
    list[#list + 1] = name
  end
  return list
end

function World:count_descriptors() return #entries(("/proc/%d/fd"):format(self.server.child.pid)) end

function World:children()
  local list = {}
  for _, thread in ipairs(entries(("/proc/%d/task"):format(self.server.child.pid))) do
    local text = process.read(("/proc/%d/task/%s/children"):format(self.server.child.pid, thread))
    for pid in text:gmatch "%d+" do list[#list + 1] = pid end
  end
  return list
end

--- What a build has left behind, by now: processes, workspaces.
---@return string[]
function World:leftovers()
  local list = {}
  for _, pid in ipairs(self:children()) do
    list[#list + 1] = "process " .. process.read(("/proc/%s/cmdline"):format(pid)):gsub("%z", " "):sub(1, 60)
  end
  for _, name in ipairs(entries(self.server.directory .. "/builds")) do
    -- What could not be removed, and was told, is swept by the janitor: it is no finding, here or in what comes next.
    local told = self.server:log():find("file work of a build failed build=" .. name, 1, true)
    if told then
      process.check { "rm", "-rf", ("%s/builds/%s"):format(self.server.directory, name) }
    elseif name:find "^%x+%-" then
      list[#list + 1] = ("workspace %s: %s"):format(name,
        table.concat(entries(("%s/builds/%s"):format(self.server.directory, name)), " "))
    end
  end
  return list
end

-- PostgreSQL waits by itself: each look from here would be a program of its own.
local TOLD <const> = ([[do $$ begin
  for i in 1..%d loop
    exit when not exists (select from outbox where state = 'pending')
      and not exists (select from deliveries where state in ('waiting', 'sending'));
    perform pg_sleep(0.01);
  end loop;
end $$]]):format(SETTLE_SECONDS * 100)

--- Waits until the server does nothing; returns what is left then.
---@return string[]
function World:settle()
  self.server:sql(TOLD)
  pcall(process.wait_for, function()
    return #self:leftovers() == 0 and (not self.descriptors or self:count_descriptors() <= self.descriptors)
  end, SETTLE_SECONDS)
  local list = self:leftovers()
  local open = self:count_descriptors()
  if self.descriptors and open > self.descriptors then
    local names = {}
    for _, name in ipairs(entries(("/proc/%d/fd"):format(self.server.child.pid))) do
      names[#names + 1] = uv.fs_readlink(("/proc/%d/fd/%s"):format(self.server.child.pid, name)) or "?"
    end
    list[#list + 1] = ("%d descriptors instead of %d: %s"):format(open, self.descriptors, table.concat(names, " "))
  end
  local owed = self.server:sql [[select coalesce(string_agg(concat_ws(' ', 'delivery', channel, event, state,
    last_reply, fault), '; '), '') from deliveries where state in ('waiting', 'sending', 'faulty', 'dead')]]
  if owed ~= "" then list[#list + 1] = owed end
  local events = self.server:sql "select count(*) from outbox where state = 'pending'"
  if events ~= "0" then list[#list + 1] = events .. " events that nobody was told of" end
  return list
end

--- Whether memory was lost since the start; what, is in the log.
function World:leaks()
  local wanted = self.control:get "leaks_wanted" + 1
  self.control:set("leaks_wanted", wanted)
  process.wait_for(function()
    return not self.server.child:alive() or self.control:get "leaks_searched" == wanted
  end, LEAK_SECONDS, "the search for leaks")
  return self.control:get "leaks" ~= 0
end

--- What the server has written since the last call.
function World:new_log()
  local text = self.server:log():sub(self.mark + 1)
  self.mark = self.mark + #text
  return text
end

return World
