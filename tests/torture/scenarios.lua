-- What the server is asked to do while a call fails, and what must have become of it. Each `act` runs with the control
-- armed and returns findings (what must not be), and what somebody outside could see of the failure.
local uv = require "luv"
local json = require "dkjson"
local builds = require "spec.support.builds"
local process = require "spec.support.process"
local World = require "tests.torture.world"

local START_SECONDS <const>, STOP_SECONDS <const> = 20, 20
local NO_BUILD <const> = "/builds/00000000-0000-7000-8000-000000000000"

---@class Finding
---@field kind "crash"|"leak"|"lost"|"left"|"unclear"|"wrong"
---@field text string

---@class Seen
---@field findings Finding[]
---@field signs string[] what a client or an administrator could see of the failure

local function add(seen, kind, ...) table.insert(seen.findings, { kind = kind, text = string.format(...) }) end
local function note(seen, ...) table.insert(seen.signs, string.format(...)) end

-- An answer that says that something failed: a 5xx with a problem that says what, or none at all.
local function refusal(seen, what, answer)
  note(seen, "%s: %d %s", what, answer.status, answer.body)
  if answer.status == 0 then return end
  local problem = answer.head:lower():find("application/problem+json", 1, true) and json.decode(answer.body)
  if answer.status < 500 then
    add(seen, "wrong", "%s: %d %s", what, answer.status, answer.body)
  elseif not problem or not (problem.detail or problem.title) then
    add(seen, "unclear", "%s: %d without a problem: %s", what, answer.status, answer.body)
  end
end

-- The answer without what differs from time to time, to compare it with that of a run in which nothing failed. The id
-- of a request is in a header as well, and is left out of the body when there is no memory for it.
local function shape(value)
  if type(value) ~= "table" then return type(value) end
  local names, parts = {}, {}
  for name in pairs(value) do if name ~= "requestId" then names[#names + 1] = tostring(name) end end
  table.sort(names)
  for i, name in ipairs(names) do
    parts[i] = name .. "=" .. shape(value[name] == nil and value[tonumber(name)] or value[name])
  end
  return "{" .. table.concat(parts, " ") .. "}"
end

local function summary(answer)
  if answer.head:lower():find "content%-type: application/[%a+]-json" then
    return ("%d %s"):format(answer.status, shape(json.decode(answer.body, 1, false)))
  end
  local is_metrics = answer.head:lower():find("content-type: text/plain; version", 1, true)
  return ("%d %s"):format(answer.status, is_metrics and "" or answer.body)
end

local build = { name = "build" }

function build.act(world)
  local seen = { findings = {}, signs = {} }
  local id, refused = world:submit "work"
  for _, answer in ipairs(refused) do refusal(seen, "POST /builds", answer) end
  if not id then
    add(seen, "lost", "the build was never accepted")
    return seen
  end
  local done = world:finish_build(id)
  if not world.server.child:alive() then return seen end
  if not done then
    add(seen, "lost", "the build %s came to no end: %s", id, world.server:sql(
      ("select status, attempt, node_id, run_after, error_message from build_queue where id = '%s'"):format(id)))
    return seen
  end
  local attempts = tonumber(world.server:sql(("select attempt from build_queue where id = '%s'"):format(id)))
  if done.status == "success" then
    if attempts > 1 then
      note(seen, "%d attempts: %s", attempts, world.server:sql(("select string_agg(concat_ws(' ', outcome, "
        .. "error_message), '; ' order by attempt) from build_attempts where build_id = '%s'"):format(id)))
    end
    return seen, id
  end
  note(seen, "%s: %s", done.status, tostring(done.errorMessage))
  if done.status ~= "failed" then add(seen, "wrong", "the build is %s", done.status) end
  if not done.errorMessage or #done.errorMessage < 10 then
    add(seen, "unclear", "the build failed with the message %q", tostring(done.errorMessage))
  end
  return seen
end

-- With nothing armed: what the build made is there.
function build.check(world, seen, id)
  if not id then return end
  local answer = world:ask("GET", ("/downloads/%s/out.txt"):format(id))
  if not answer or answer.status ~= 200 or answer.body ~= "output\n" then
    add(seen, "lost", "the artifact: %s %s", answer and answer.status, answer and answer.body)
  end
  answer = world:ask("GET", ("/builds/%s/log"):format(id))
  local text = answer and answer.status == 200 and answer.body or ""
  local whole = text:find("input", 1, true) and text:find("ok", 1, true)
  if not whole and #seen.complaints == 0 then -- one that could not be written is told of
    add(seen, "lost", "lines of the build's log: %s", text)
  end
end

local request = { name = "request" }

local function steps(world)
  local id = world.finished
  local list = {
    { "GET", "/builds/" .. id }, { "GET", "/builds?customerId=requests&limit=1" },
    { "GET", ("/builds/%s/log"):format(id) }, { "GET", ("/builds/%s/artifacts"):format(id) },
    { "GET", ("/downloads/%s/out.txt"):format(id) },
    { "GET", NO_BUILD }, { "GET", "/builds/statistics" }, { "GET", "/healthz" }, { "GET", "/metrics" },
    { "POST", "/builds", builds.request { pipeline = "quick", tier = "" } },
  }
  return list
end

function request.prepare(world)
  if not world.finished then
    world.finished = assert(world:submit("work", "requests"))
    assert(world:finish_build(world.finished).status == "success", "the build for the requests")
  end
  assert(world:ask("POST", "/queue/pause", { reason = "torture" }).status == 200)
end

function request.finish(world)
  if world.server.child:alive() then world:ask("POST", "/queue/resume", {}) end
end

-- The same, one after the other; the answers' summaries, nil where there was none.
function request.act(world)
  local seen = { findings = {}, signs = {} }
  world.summaries = world.summaries or {}
  local key = World.new_key()
  local list = steps(world)
  for _, step in ipairs(list) do
    local answer, reason = world:ask(step[1], step[2], step[3])
    local what = step[1] .. " " .. step[2]:gsub(world.finished, "{id}")
    local right = world.summaries[what]
    local got = answer and summary(answer)
    if not right then
      world.summaries[what] = got
    elseif got ~= right then
      refusal(seen, what, answer or { status = 0, body = reason })
      if answer and answer.status < 500 and #seen.findings == 0 then
        add(seen, "wrong", "%s: %s instead of %s", what, got, right)
      end
    end
    if not world.server.child:alive() then return seen end
  end
  -- A build is accepted once, however often the client asks.
  local id
  for _ = 1, 20 do
    local answer, reason = world:post_build("quick", key)
    if answer and answer.status == 202 then
      id = json.decode(answer.body).jobId
      break
    end
    refusal(seen, "POST /builds", answer or { status = 0, body = reason })
    if not world.server.child:alive() then return seen end
    process.pump(20)
  end
  if not id then
    add(seen, "lost", "the build was never accepted")
    return seen
  end
  local count = world.server:sql(("select count(*) from build_queue where configuration_name = '%s'"):format(key))
  if count ~= "1" then add(seen, "lost", "%s rows for one build", count) end
  for _ = 1, 20 do
    local answer, reason = world:ask("POST", ("/builds/%s/cancel"):format(id), { reason = "torture" })
    if answer and answer.status == 200 then return seen end
    if answer and answer.status == 409 and #seen.signs > 0 then return seen end -- it was done, and not told
    refusal(seen, "POST /builds/{id}/cancel", answer or { status = 0, body = reason })
    if not world.server.child:alive() then return seen end
    process.pump(20)
  end
  add(seen, "lost", "the build can't be cancelled")
  return seen
end

local start = { name = "start", starts = true }

-- From nothing to ready, and to the end.
function start.act(world)
  local seen = { findings = {}, signs = {} }
  local server = world.server
  server:spawn()
  server.address = server.config.BuildQueue.Listen
  local ready
  pcall(process.wait_for, function()
    if not server.child:alive() then return true end
    ready = (world:ask("GET", "/readyz") or {}).status == 200
    return ready
  end, START_SECONDS)
  if server.child:alive() and not ready then
    local answer = world:ask("GET", "/readyz")
    note(seen, "it does not become ready: %s", answer and answer.body or "it does not listen")
    if not answer then add(seen, "lost", "it neither became ready nor ended") end
  end
  if ready then
    local id = world:submit "quick"
    local done = id and world:finish_build(id)
    if server.child:alive() and not (done and (done.status == "success" or done.errorMessage)) then
      add(seen, "lost", "it is ready, but a build %s", id and "does not end" or "is not accepted")
    end
  end
  if server.child:alive() then
    uv.kill(server.child.pid, "sigterm")
    if not pcall(server.child.wait, server.child, STOP_SECONDS) then
      add(seen, "lost", "it did not stop")
      server:kill "sigkill"
      server.child:wait(10)
    elseif server.child.code == 1 then
      note(seen, "the end: exit code 1")
    end
  else
    note(seen, "the start: exit code %d", server.child.code)
  end
  return seen
end

return { start, request, build }
