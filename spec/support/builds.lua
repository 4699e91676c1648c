-- Builds as a client sees them: submit, wait for an end, read the log; and a pipeline that waits for the spec.
--
--   local server = Server.start { scripts = builds.scripts() }
--   local id = builds.submit(server, { pipeline = "gate" })
--   builds.await(server, id, "building")
--   builds.open_gate(server, id)
--   builds.await(server, id, "success")
local process = require "spec.support.process"

local builds = {}

-- Ends at once; and one that is in its step "Waiting" until open_gate.
local PIPELINES <const> = {
  ["pipelines/quick.lua"] = [[
    return { run = function(build) build:step("Only", function() build:log "quick" end) end }
  ]],
  ["pipelines/gate.lua"] = [[
    local buildq = require "buildq"
    return { run = function(build)
      build:step("Waiting", { at = 20 }, function()
        build:log "waiting"
        while not buildq.fs.exists "go" do buildq.sleep(0.02) end
      end)
      build:step("After", { at = 90 }, function() build:log "gone through" end)
    end }
  ]],
}

--- Files of ScriptDirectory: the two pipelines and what the spec adds.
---@param more? table<string, string>
---@return table<string, string>
function builds.scripts(more)
  local all = {}
  for path, text in pairs(PIPELINES) do all[path] = text end
  for path, text in pairs(more or {}) do all[path] = text end
  return all
end

--- A body of POST /builds that is accepted, with `more` laid over it.
function builds.request(more)
  local body = {
    customerId = "c1", customerName = "Customer", customerEmail = "c1@example.org", configurationName = "main",
    tier = "pro", architecture = "linux-x64", cloudProvider = "aws", pipeline = "quick",
    manifest = { version = "1.0", name = "spec" },
  }
  for name, value in pairs(more or {}) do body[name] = value end
  if body.manifestPath then body.manifest = nil end
  return body
end

--- Submits one; returns its id.
---@return string
function builds.submit(server, more)
  local answer = server:post("/builds", builds.request(more))
  if answer.status ~= 202 then error(("POST /builds: %d %s"):format(answer.status, answer.body), 2) end
  return answer.json.jobId
end

--- Waits until it has one of the statuses ("building", "failed|timedout"); returns the build. An end that was not asked
--- for is an error at once.
---@return table
function builds.await(server, id, status, seconds)
  local build
  server:wait_for(function()
    build = server:get("/builds/" .. id).json
    if ("|" .. status .. "|"):find("|" .. build.status .. "|", 1, true) then return true end
    if build.status ~= "pending" and build.status ~= "building" then
      process.give_up(("the build is %s, not %s: %s\n%s"):format(build.status, status, tostring(build.errorMessage),
        builds.log(server, id)))
    end
  end, seconds or 30, function()
    return ("the build %s to be %s; it is %s at %s"):format(id, status, build.status, tostring(build.currentStep))
  end)
  return build
end

--- Submits and waits for the end.
---@return table build
function builds.run(server, more, status, seconds)
  return builds.await(server, builds.submit(server, more), status or "success", seconds)
end

--- The log of its last attempt; or of another.
---@return string
function builds.log(server, id, query) return server:get(("/builds/%s/log%s"):format(id, query or "")).body end

--- The workspace of an attempt.
function builds.workspace(server, id, attempt)
  return ("%s/builds/%s/attempt-%d"):format(server.directory, id, attempt or 1)
end

--- Waits for the workspace of a build of the pipeline "gate" and lets it go on.
function builds.open_gate(server, id, attempt)
  local path = builds.workspace(server, id, attempt)
  server:wait_for(function() return require("luv").fs_stat(path) end, 20, "the workspace " .. path)
  process.write(path .. "/go", "")
end

return builds
