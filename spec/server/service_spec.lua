-- The server as a service: what it tells its manager, whose process it is, and who may look into it.
local uv = require "luv"
local unix = require "socket.unix"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

-- A program for Server.start: a script that ends in becoming the server (same process).
local function wrapper(...)
  local path = process.directory() .. "/buildq"
  process.write(path, ("#!/bin/sh\nexec %s '%s' \"$@\"\n"):format(table.concat({ ... }, " "), Server.program()))
  process.check { "chmod", "755", path }
  return path
end

describe("a service's manager", function()
  it("is told when the server is ready, and when it stops", function()
    local path = process.directory() .. "/notify"
    local manager = assert(unix.dgram())
    assert(manager:bind(path))
    process.check { "chmod", "777", path }
    manager:settimeout(10)
    local server = Server.new { env = { NOTIFY_SOCKET = path } }
    server:launch()
    assert.equal("READY=1", manager:receive())
    manager:settimeout(0)
    assert.is_nil((manager:receive())) -- once
    manager:settimeout(10)
    assert.equal(0, server:stop())
    assert.equal("STOPPING=1", manager:receive())
    manager:close()
  end)
end)

describe("the server's process", function()
  -- The kernel gives /proc/PID of a process that can't be dumped to root, whoever runs it.
  it("can't be dumped or traced by its own user, which builds are", function()
    local user = process.ordinary_user()
    local program
    if user then -- not by way of root: giving it up makes a process undumpable too
      local as = { "setpriv", "--reuid=" .. user.uid, "--regid=" .. user.gid, "--clear-groups" }
      local probe = { table.unpack(as) }
      probe[#probe + 1] = "test"
      probe[#probe + 1] = "-x"
      probe[#probe + 1] = Server.program()
      if process.run(probe).code == 0 then program = wrapper(table.unpack(as)) end
    end
    local server = Server.start { program = program }
    assert.equal(0, uv.fs_stat(("/proc/%d/environ"):format(server.child.pid)).uid)
    local uid = process.read(("/proc/%d/status"):format(server.child.pid)):match "\nUid:%s+(%d+)"
    assert.equal(user and user.uid or uv.getuid(), tonumber(uid))
    server:stop()
  end)

  it("is given the directories that are missing, with those above them, and says which one it can't use", function()
    local user = process.ordinary_user()
    if not user then return end -- only root can give
    local server = Server.new { scripts = { ["pipelines/file.lua"] = 'return { run = function(build) '
      .. 'require("buildq").fs.write("a.txt", "a") build:artifact "a.txt" end }' } }
    local queue = server.config.BuildQueue
    process.check { "chown", "root:", server.directory .. "/builds" }
    process.check { "chmod", "700", server.directory .. "/builds" }
    queue.WorkspaceDirectory = server.directory .. "/builds/not/there"
    queue.OutputDirectory = server.directory .. "/nor/this"
    server:write_config()
    process.check { "chmod", "755", server.directory .. "/builds" }
    server:launch()
    builds.run(server, { pipeline = "file" })
    for _, name in ipairs { "builds/not", "builds/not/there", "nor", "nor/this" } do
      local info = uv.fs_stat(server.directory .. "/" .. name)
      assert.same({ user.uid, "750" }, { info.uid, ("%o"):format(info.mode & 511) }, name)
    end
    assert.equal(0, uv.fs_stat(server.directory .. "/builds").uid) -- was there, and is root's still
    server:stop()
    process.check { "chown", "12345", server.directory .. "/nor/this" }
    process.check { "chmod", "700", server.directory .. "/nor/this" }
    local refused = server:command { "serve" }
    assert.equal(1, refused.code)
    assert.matches(user.name .. " can't write to the OutputDirectory " .. queue.OutputDirectory, refused.errors, 1,
      true)
  end)

  it("keeps its directories and logs from other users", function()
    local server = Server.new { database = false, scripts = builds.scripts() }
    process.check { "rm", "-r", server.directory .. "/state", server.directory .. "/builds",
      server.directory .. "/output" }
    process.check { "chmod", "777", server.directory } -- as a start by an ordinary user makes them too
    server:launch()
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    local log = ("%s/state/logs/%s/attempt-1.log"):format(server.directory, id)
    server:wait_for(function() return uv.fs_stat(log) end) -- a log is in memory for its first moment
    local function mode(path) return ("%o"):format(uv.fs_stat(server.directory .. "/" .. path).mode & 511) end
    for _, path in ipairs { "state", "state/logs", "state/logs/" .. id, "state/manifests", "builds", "builds/" .. id,
      "output" } do
      if uv.fs_stat(server.directory .. "/" .. path) then assert.equal("750", mode(path), path) end
    end
    for _, path in ipairs { "state/logs/" .. id .. "/attempt-1.log", "state/postgres.log" } do
      assert.equal("640", mode(path), path)
    end
    assert.equal("700", mode "state/pg")
    builds.open_gate(server, id)
    builds.await(server, id, "success")
    assert.equal("750", mode("output/" .. id))
    server:stop()
  end)

  it("is of RunAsUser, which is made when it is missing", function()
    if not process.is_root then return end -- only root can become somebody else
    local fake = process.directory()
    local uid = 20000 + math.tointeger(uv.os_getpid()) % 40000 -- other specs may run at the same time
    process.write(fake .. "/passwd", process.read "/etc/passwd")
    process.write(fake .. "/useradd",
      '#!/bin/sh\necho "$@" > ' .. fake .. '/said\nfor name; do :; done\n'
      .. 'echo "$name:x:' .. uid .. ":" .. uid .. '::/nonexistent:/usr/sbin/nologin" >> /etc/passwd\n')
    process.check { "chmod", "755", fake .. "/useradd" }
    local program = wrapper("bwrap", "--dev-bind", "/", "/", "--bind", fake .. "/passwd", "/etc/passwd",
      "--bind", fake .. "/useradd", "/usr/sbin/useradd")
    local server = Server.new { program = program,
      config = { BuildQueue = { RunAsUser = "bq-spec-missing", Sandbox = "none" } } }
    process.check { "chown", "-R", "root:", server.directory }
    server:launch()
    assert.equal("--system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --user-group "
      .. "bq-spec-missing\n", process.read(fake .. "/said"))
    for _, name in ipairs { "state", "builds", "output" } do
      assert.equal(uid, uv.fs_stat(server.directory .. "/" .. name).uid, name)
    end
    local own = process.check { "pgrep", "-u", tostring(uid), "-x", "buildq" }
    local command = process.read(("/proc/%s/cmdline"):format(own:match "%d+"))
    assert.truthy(command:find(server.directory, 1, true), command)
    server:stop()
    -- A useradd that fails ends the start, and is named.
    process.write(fake .. "/passwd", process.read "/etc/passwd")
    process.write(fake .. "/useradd", "#!/bin/sh\nexit 9\n")
    local failed = process.run({ program, "serve", "--config", server.directory .. "/appsettings.json" },
      { env = server:environment() })
    assert.equal(1, failed.code)
    assert.matches("useradd could not make the user bq-spec-missing", failed.errors, 1, true)
  end)
end)
