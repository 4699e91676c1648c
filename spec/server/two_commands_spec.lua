-- The commands a stranger meets first: packages, installation, and `make run` with its demonstration build.
local uv = require "luv"
local lyaml = require "lyaml"
local Server = require "spec.support.server"
local process = require "spec.support.process"

local BUILD <const> = os.getenv "BUILDQ_BUILD" or "build"
local SANITIZED <const> = BUILD ~= "build" -- compiled with other flags: too slow to be timed

-- Our environment without what an outer make has put there.
local function environment(more)
  local env = uv.os_environ()
  env.MAKEFLAGS, env.MFLAGS, env.MAKELEVEL, env.MAKEOVERRIDES = nil, nil, nil, nil
  for name, value in pairs(more or {}) do env[name] = value end
  return env
end

describe("make packages", function()
  local directory

  -- A PATH whose dpkg-query knows the packages `installed` and whose apt-get writes down what it is told.
  local function packages(lists, installed, fakes)
    directory = process.directory()
    local programs = {
      ["dpkg-query"] = "for p in " .. installed .. '; do echo "installed $p"; done',
      ["apt-get"] = 'echo "$*" >> "' .. directory .. '/calls"; [ -e "' .. directory .. '/updated" ] || '
        .. '{ [ "$1" = update ] && touch "' .. directory .. '/updated"; }',
      sudo = "exit 1",
      id = "echo 1000",
    }
    for name, text in pairs(fakes or {}) do programs[name] = text end
    for name, text in pairs(programs) do
      process.write(directory .. "/" .. name, "#!/bin/sh\n" .. text .. "\n")
      assert(uv.fs_chmod(directory .. "/" .. name, tonumber("755", 8)))
    end
    return process.run({ "sh", ".ci/packages", table.unpack(lists) },
      { env = { PATH = directory .. ":" .. os.getenv "PATH" } })
  end

  local function everything()
    local text = process.read ".ci/packages"
    local names = {}
    for list in text:gmatch '\n%l+="([^"$]+)"' do names[#names + 1] = (list:gsub("%s+", " ")) end
    assert.equal(5, #names) -- run, test, lint, bench, screenshots
    return table.concat(names, " ")
  end

  it("says nothing when nothing is missing", function()
    local done = packages({ "run", "test", "lint" }, everything())
    assert.equal(0, done.code)
    assert.equal("", done.output .. done.errors)
    assert.equal("", process.read(directory .. "/calls"))
  end)

  it("prints the exact line, and fails, without root and sudo", function()
    local all = everything():gsub("bubblewrap ", "")
    local done = packages({ "run" }, all)
    assert.equal(1, done.code)
    local line = "apt-get update && apt-get install -y --no-install-recommends bubblewrap\n"
    assert.truthy(done.errors:find(line, 1, true), done.errors)
    assert.equal("", process.read(directory .. "/calls"))
  end)

  it("as root installs what is missing, with an update only after a first failure", function()
    local line = "install -y --no-install-recommends bubblewrap"
    local all = everything():gsub("bubblewrap ", "")
    local done = packages({ "run" }, all, { id = "echo 0" })
    assert.equal(0, done.code, done.errors)
    assert.equal(line .. "\nupdate -q\n" .. line .. "\n", process.read(directory .. "/calls"))
  end)
end)

describe("make install", function()
  local root, program

  setup(function()
    root = process.directory()
    process.check({ "make", "install", "BUILD=" .. BUILD, "DESTDIR=" .. root, "PREFIX=/usr" }, { env = environment() })
    program = root .. "/usr/bin/buildq"
  end)

  it("puts everything in its place", function()
    local unit = process.read(root .. "/usr/lib/systemd/system/buildq.service")
    assert.truthy(unit:find("\nExecStart=/usr/bin/buildq serve\n", 1, true), unit)
    assert.is_nil(unit:find "@%u+@")
    assert.truthy(process.read(root .. "/usr/share/man/man1/buildq.1"):find "^%.TH BUILDQ 1")
    assert.truthy(process.read(root .. "/usr/share/buildq/scripts/pipelines/honua-server.lua") ~= "")
  end)

  it("brings the account of the unit, and the directories that it may not make itself", function()
    local unit = process.read(root .. "/usr/lib/systemd/system/buildq.service")
    local account = unit:match "\nUser=(%S+)\n"
    assert.truthy(process.read(root .. "/usr/lib/sysusers.d/buildq.conf"):find("\nu " .. account .. " - ", 1, true))
    local tmpfiles = process.read(root .. "/usr/lib/tmpfiles.d/buildq.conf")
    local options = process.check { program, "config", "options" }
    for _, name in ipairs { "WorkspaceDirectory", "OutputDirectory" } do
      local path = assert(options:match("\n| `" .. name .. "` | `([^`]+)` |"), name)
      local line = "\nd " .. path:gsub("%p", "%%%0") .. " +0750 +" .. account .. " +" .. account .. " +%-\n"
      assert.truthy(tmpfiles:find(line), line)
      local writable = unit:match "\nReadWritePaths=%-(%S+)\n"
      assert.equal(writable .. "/", path:sub(1, #writable + 1))
    end
  end)

  it("is what luarocks make does, from a clone: nothing of it is taken for a Lua module", function()
    local tree = process.directory()
    local done = process.run({ "luarocks", "--lua-version", "5.4", "make", "--tree", tree,
      "honua-buildq-scm-1.rockspec" }, { env = environment(), seconds = 120 })
    assert.equal(0, done.code, done.errors)
    assert.matches("%d", process.check { tree .. "/bin/buildq", "version" })
    assert.equal("", process.check { "find", tree, "-path", tree .. "/lib/lua/*", "-type", "f" })
  end)

  it("leaves a program that finds its files, wherever it was moved to", function()
    process.write(root .. "/usr/share/buildq/scripts/routes/spec_probe.lua",
      'return { method = "GET", path = "/spec-probe", handle = function() return { json = { here = true } } end }\n')
    local server = Server.start { program = program }
    assert.is_true(server:get("/spec-probe").json.here)
    server:stop()
  end)

  it("ships alert rules that name only metrics the server has", function()
    local rules = lyaml.load(process.read(root .. "/usr/share/buildq/alerts.yml")).groups[1].rules
    assert.equal(8, #rules)
    local server = Server.start { program = program }
    local metrics = server:get("/metrics").body
    server:stop()
    for _, rule in ipairs(rules) do
      for name in rule.expr:gmatch "buildq_[%l_]+" do
        local declared = "# TYPE " .. name:gsub("_bucket$", "") .. " "
        assert.truthy(metrics:find(declared, 1, true), ("%s: no metric %s"):format(rule.alert, name))
      end
    end
    -- What is alerted on, beyond which bound, for how long.
    local bounds = {}
    for _, rule in ipairs(rules) do
      bounds[rule.alert] = ("%s > %s for %s"):format(rule.expr:match "buildq_[%l_]+", rule.expr:match "> ([%d.]+)$",
        rule["for"] or "0")
    end
    assert.same({
      BuildqPendingHigh = "buildq_pending_builds > 100 for 5m",
      BuildqPendingCritical = "buildq_pending_builds > 500 for 2m",
      BuildqFailuresHigh = "buildq_builds_finished_total > 0.2 for 10m",
      BuildqWaitLong = "buildq_build_wait_seconds_bucket > 60 for 5m",
      BuildqOldestPendingOld = "buildq_oldest_pending_seconds > 1800 for 0",
      BuildqMailsDead = "buildq_deliveries_total > 0 for 0",
      BuildqMailsLate = "buildq_oldest_delivery_seconds > 3600 for 5m",
      BuildqMailsFaulty = "buildq_deliveries_faulty > 0 for 0",
    }, bounds)
  end)
end)

describe("make run", function()
  local state, log

  -- Starts it; returns the process and the address it serves on.
  local function run()
    local from = #process.read(log)
    local child = process.spawn({ "make", "run", "BUILD=" .. BUILD, "STATE=" .. state, "LISTEN=127.0.0.1:0",
      "DEMONSTRATION=self" },
      { env = environment(process.is_root and { BuildQueue__RunAsUser = "nobody" }), to = log })
    local address = process.wait_for(function()
      local text = process.read(log):sub(from + 1)
      if not child:alive() then process.give_up(text) end
      return text:match 'listening[^\n]-address="?([%w.:]+)'
    end, 30, function() return "the server to listen:\n" .. process.read(log):sub(from + 1) end)
    return child, address
  end

  setup(function()
    local directory = process.directory()
    state, log = directory .. "/state", directory .. "/log"
  end)

  it("builds this very program in the demonstration build and goes on serving", function()
    local child, address = run()
    process.wait_for(function()
      if not child:alive() then process.give_up(process.read(log)) end
      return process.read(log):find "\nsuccess\n"
    end, 280, function() return "the demonstration build:\n" .. process.read(log):sub(-4000) end)
    assert(child:alive(), process.read(log))
    local answer = process.check { "curl", "-sS", "--max-time", "10", ("http://%s/builds"):format(address) }
    assert.truthy(answer:find '"success"', answer)
    local archives = process.check { "find", state .. "/output", "-name", "*.tar.zst", "!", "-name",
      "*-deploy.tar.zst" }
    assert.truthy(archives ~= "", "no archive in the output directory")
    assert.truthy(process.check({ "tar", "--zstd", "-tf", (archives:match "^[^\n]+") }):find "bin/buildq\n")
    -- What it says for a second terminal works as it stands, in another directory.
    local commands = process.wait_for(function()
      return process.read(log):match "\nTry in a second terminal:\n\n(.-)\n\n"
    end, 30, function() return "its commands:\n" .. process.read(log):sub(-4000) end)
    local elsewhere = process.directory()
    for command in commands:gmatch "[^\n]+" do
      local done = process.run({ "sh", "-c", command }, { cwd = elsewhere })
      assert.equal(0, done.code, command .. ": " .. done.errors)
      assert.truthy(command:find "curl %-sO" or #done.output > 100, command .. ": " .. done.output)
      assert.is_nil(done.output:find('"status":4', 1, true), command .. ": " .. done.output)
    end
    assert.truthy(select(2, commands:gsub("\n", "")) >= 4)
    local fetched = archives:match "^[^\n]*/([^\n]+)"
    assert.equal(process.read((archives:match "^[^\n]+")), process.read(elsewhere .. "/" .. fetched))
    -- The mails that a customer would have got are files, and are shown.
    local mails = process.read(log):match "\nIts mails[^\n]*\n\n(.-)\n\n"
    assert.truthy(mails and mails:find(state .. "/outbox/", 1, true) and mails:find(".completed.", 1, true), mails)
    for path in mails:gmatch "/[^\n]+%.eml" do assert.truthy(process.read(path):find "Message%-Id: <") end
    child:kill "sigterm"
    child:wait(30)
  end)

  -- How many times longer than alone a computation takes now, because others have the processors.
  local function slowness()
    local began, clock = uv.hrtime(), os.clock()
    while os.clock() - clock < 0.2 do end
    return math.max(1, (uv.hrtime() - began) / 1e9 / (os.clock() - clock))
  end

  it("starts in under two seconds the second time", function()
    local best
    for _ = 1, 5 do -- the best of five, as if the machine were ours
      local before, began = slowness(), uv.hrtime()
      local child = run()
      local seconds = (uv.hrtime() - began) / 1e9 / ((before + slowness()) / 2)
      best = math.min(best or seconds, seconds)
      child:kill "sigterm"
      child:wait(30)
      if best < 2 then break end
    end
    assert.truthy(SANITIZED or best < 2, ("it took %.2f s"):format(best))
  end)

  it("says that a port is taken, and the line that uses another", function()
    local server = Server.start()
    local other = Server.new { config = { BuildQueue = { Listen = server.address } } }
    local answer = other:command { "serve" }
    assert.equal(1, answer.code)
    local port = server.port + 1
    assert.truthy(answer.errors:find("Address already in use", 1, true), answer.errors)
    assert.truthy(answer.errors:find("make run LISTEN=127.0.0.1:" .. port, 1, true), answer.errors)
    server:stop()
  end)
end)
