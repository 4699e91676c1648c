-- Sandbox=none where a cgroup (version 2) can be made: what has left its process group ends as well. Elsewhere nobody
-- can find it again; then this is skipped, and says why.
local uv = require "luv"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

-- Four processes: one in a session of its own and a child of it, one whose parent has ended, and the command. They
-- sleep for a number of seconds that names the build.
local PIPELINES <const> = builds.scripts { ["pipelines/daemons.lua"] = [[
  return { run = function(build)
    local line = "setsid sh -c 'sleep N & exec sleep N' & (sleep N &) ; exec sleep N"
    build:exec { argv = { "sh", "-c", (line:gsub("N", build.metadata.mark)) }, timeout = build.metadata.timeout }
  end }]] }

-- A cgroup for the server, in which its user may make others; or nil and why not.
local function delegated()
  local mount = process.read("/proc/self/mountinfo"):match "%S+ %S+ %S+ %S+ (%S+) [^\n]* %- cgroup2 "
  local own = process.read("/proc/self/cgroup"):match "0::(/[^\n]*)"
  if not mount or not own then return nil, "there is no cgroup of version 2" end
  local path = ("%s%s/buildq-spec-%d"):format(mount, own == "/" and "" or own, uv.os_getpid())
  local made, reason = uv.fs_mkdir(path, tonumber("755", 8))
  if not made then return nil, "no cgroup can be made: " .. reason end
  process.at_end(function() -- whatever has happened
    process.write(path .. "/cgroup.kill", "1")
    process.wait_for(function() return process.read(path .. "/cgroup.events"):find "populated 0" end)
    process.check { "find", path, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";" }
  end)
  local user = process.ordinary_user()
  if user then process.check { "chown", user.name, path, path .. "/cgroup.procs" } end
  return path
end

-- A number of seconds that nobody else sleeps for.
local function mark(number) return ("700%d.%d"):format(number, uv.os_getpid()) end

local function count(seconds)
  local names = process.run({ "pgrep", "-fx", "sleep " .. seconds }).output
  return select(2, names:gsub("%d+", ""))
end

describe("without a sandbox", function()
  local server, cgroup, reason

  lazy_setup(function()
    cgroup, reason = delegated()
    if not cgroup then return end
    server = Server.start { scripts = PIPELINES,
      config = { BuildQueue = { Sandbox = "none", StopGraceSeconds = 1, MaxRetryAttempts = 0,
        GracefulShutdownTimeoutSeconds = 1 } } }
    local file, refusal = io.open(cgroup .. "/cgroup.procs", "w")
    local entered = file and file:write(server.child.pid) and file:close()
    if not entered then cgroup, reason = nil, "the server can't enter a cgroup: " .. tostring(refusal) end
  end)
  lazy_teardown(function() if server then server:stop() end end)

  local function begin(seconds, more)
    local metadata = { mark = seconds }
    for name, value in pairs(more or {}) do metadata[name] = value end
    local id = builds.submit(server, { pipeline = "daemons", metadata = metadata })
    server:wait_for(function() return count(seconds) == 4 end, 30, "the processes")
    return id
  end

  local function all_gone(seconds)
    server:wait_for(function() return count(seconds) == 0 end, 20, "their end")
    -- Cgroups of ended commands are gone as well.
    server:wait_for(function()
      return process.check { "find", cgroup, "-mindepth", "1", "-type", "d" } == ""
    end, 20, "the end of their cgroup")
  end

  it("a cancel ends the whole tree", function()
    if not cgroup then return pending(reason) end
    local id = begin(mark(1))
    assert.equal(202, server:post("/builds/" .. id .. "/cancel", { reason = "spec" }).status)
    builds.await(server, id, "cancelled")
    all_gone(mark(1))
  end)

  it("a timeout ends the whole tree", function()
    if not cgroup then return pending(reason) end
    local id = begin(mark(2), { timeout = 2 })
    builds.await(server, id, "failed|timedout")
    all_gone(mark(2))
  end)

  it("the end of the server ends the whole tree", function()
    if not cgroup then return pending(reason) end
    begin(mark(3))
    server:stop()
    all_gone(mark(3))
    server = nil
  end)
end)
