-- The command line against a real server.
local uv = require "luv"
local json = require "dkjson"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local MANIFEST <const> = { version = "1.0", name = "cli", tier = "pro", architecture = "linux-x64",
  cloudTargets = { { provider = "aws" } } }

describe("commands", function()
  local server

  local function command(...)
    return server:command { ... }
  end

  -- With the server's address.
  local function ask(name, ...)
    return command(name, "--server", "http://" .. server.address, ...)
  end

  local function enqueue(pipeline, ...)
    return ask("enqueue", "--customer-id", "c1", "--customer-name", "C", "--customer-email", "c@example.org",
      "--configuration", "cli", "--manifest", server.directory .. "/manifests/m.json", "--pipeline", pipeline, ...)
  end

  setup(function()
    server = Server.start {
      config = { BuildQueue = { MaxRetryAttempts = 0, MaxConcurrentBuilds = 2 } },
      manifests = { ["m.json"] = MANIFEST },
      scripts = builds.scripts {
        ["pipelines/failing.lua"] = 'return { run = function(build) build:fail "as asked" end }',
      },
    }
  end)

  teardown(function()
    if server then server:stop() end
  end)

  it("queue a build and follow it to its end", function()
    local done = enqueue("quick", "--follow")
    assert.equal(0, done.code, done.errors)
    assert.truthy(done.output:find("success 100% Build complete", 1, true), done.output)
    local failed = enqueue("failing", "--follow")
    assert.equal(6, failed.code)
    assert.truthy(failed.errors:find("as asked", 1, true), failed.errors)
  end)

  it("take an idempotency key", function()
    local first = enqueue("quick", "--idempotency-key", "cli-1")
    local second = enqueue("quick", "--idempotency-key", "cli-1")
    assert.equal(0, second.code, second.errors)
    assert.equal(first.output, second.output)
  end)

  it("name every fault of a request", function()
    local answer = ask("enqueue", "--customer-id", "c1")
    assert.equal(1, answer.code)
    assert.truthy(answer.errors:find("customerEmail", 1, true), answer.errors)
    assert.truthy(answer.errors:find("configurationName", 1, true), answer.errors)
  end)

  it("show one build, many, and a log", function()
    local id = enqueue("quick", "--follow").output:match "^(%S+)"
    local status = ask("status", id)
    assert.truthy(status.output:find("status                success", 1, true), status.output)
    assert.equal("success", json.decode(ask("status", id, "--json").output).status)
    assert.truthy(ask("list", "--status", "success").output:find(id, 1, true))
    assert.falsy(ask("list", "--status", "failed").output:find(id, 1, true))
    assert.truthy(ask("logs", id).output:find("sys| quick", 1, true))
    assert.equal(4, ask("status", "00000000-0000-7000-8000-000000000000").code)
  end)

  it("follow a log from before its build begins, and over a crash of the server", function()
    assert.equal(0, ask("pause", "--reason", "spec").code)
    local id = enqueue("gate").output:match "^(%S+)"
    local function follow()
      return process.spawn({ Server.program(), "logs", id, "--follow", "--server", "http://" .. server.address },
        { env = server:environment() })
    end
    local child = follow()
    server:wait_for(function() return #server:get("/metrics").body:match "\nbuildq_http_connections 2" > 0 end, 10)
    assert.equal(0, ask("resume").code)
    server:wait_for(function() return child.output:find("waiting", 1, true) end, 20, "the log's first line")
    -- A crash breaks the connection; the server that comes back at the same address has the log.
    server:kill "sigkill"
    server.child:wait(10)
    server:wait_for(function() return child.errors:find("was lost; trying again", 1, true) end, 10, "the loss told")
    server.config.BuildQueue.Listen = server.address
    server:write_config()
    server:launch()
    assert.equal(0, (child:wait(30)))
    assert.equal(builds.log(server, id, "?attempt=1"), child.output)
    builds.await(server, id, "building")
    builds.open_gate(server, id, 2)
    builds.await(server, id, "success")
    -- What never was there is no lost connection.
    local none = command("logs", id, "--follow", "--server", "http://127.0.0.1:1")
    assert.equal(3, none.code)
    assert.falsy(none.errors:find("trying again", 1, true))
  end)

  it("cancel and retry", function()
    local id = enqueue("gate").output:match "^(%S+)"
    builds.await(server, id, "building")
    assert.equal(0, ask("cancel", id, "--reason", "enough").code)
    builds.await(server, id, "cancelled")
    assert.equal(5, ask("cancel", id).code)
    assert.equal(0, ask("retry", id).code)
    builds.await(server, id, "building")
    builds.open_gate(server, id, 2)
    builds.await(server, id, "success")
    local failed = enqueue("failing").output:match "^(%S+)"
    builds.await(server, failed, "failed")
    local many = ask("retry", "--status", "failed", "--since", "1h", "--json")
    assert.truthy(json.decode(many.output).count >= 1, many.output)
    assert.equal(2, ask("retry", "--status", "failed", "--since", "soon").code)
  end)

  it("pause, resume and show figures", function()
    assert.equal(0, ask("pause", "--reason", "spec").code)
    assert.truthy(ask("stats").output:find("paused           spec", 1, true))
    assert.equal(0, ask("resume").code)
    assert.falsy(ask("stats").output:find("paused", 1, true))
  end)

  it("say when no server answers", function()
    local answer = command("stats", "--server", "http://127.0.0.1:1")
    assert.equal(3, answer.code)
    assert.truthy(answer.errors:find("no answer from http://127.0.0.1:1", 1, true), answer.errors)
  end)

  it("check scripts and manifests, all faults at once", function()
    assert.equal(0, command("check").code)
    server:write("manifests", { ["broken.json"] = { version = "7", name = 3 } })
    local answer = command("check")
    assert.equal(1, answer.code)
    assert.truthy(answer.errors:find("broken.json", 1, true), answer.errors)
    assert.truthy(answer.errors:find("$.name", 1, true), answer.errors)
    process.check { "rm", server.directory .. "/manifests/broken.json" }
  end)

  it("check manifests in subdirectories, and none that a link leads out to", function()
    process.write(server.directory .. "/outside.json", json.encode(MANIFEST))
    server:write("manifests", { ["teams/web/deep.json"] = { version = "1.0", name = 3 } })
    process.check { "ln", "-s", "deep.json", server.directory .. "/manifests/teams/web/inner.json" }
    process.check { "ln", "-s", "../outside.json", server.directory .. "/manifests/leads-out.json" }
    local answer = command("check")
    process.check { "sh", "-c", 'cd "$1" && rm -r teams leads-out.json', "sh", server.directory .. "/manifests" }
    assert.equal(1, answer.code)
    assert.truthy(answer.errors:find("FAULT teams/web/deep.json: $.name", 1, true), answer.errors)
    assert.truthy(answer.errors:find("FAULT teams/web/inner.json: $.name", 1, true), answer.errors)
    assert.truthy(answer.errors:find("FAULT leads-out.json: ", 1, true), answer.errors)
    assert.truthy(answer.errors:find("3 faults", 1, true), answer.errors)
    local well = command("check")
    assert.equal(0, well.code, well.errors)
    assert.truthy(well.output:find("no faults", 1, true), well.output)
  end)

  it("check the database, directories and sandbox", function()
    local lonely = Server.new { database = false }
    local queue = lonely.config.BuildQueue
    local function check(code)
      lonely:write_config()
      local answer = lonely:command { "check", "--connect" }
      assert.equal(code, answer.code, answer.output .. answer.errors)
      return answer.output .. answer.errors
    end
    local function has(text, line) assert.truthy(("\n" .. text):find("\n" .. line, 1, true), text) end
    -- Before the first start: what the server makes is no fault.
    queue.OutputDirectory = lonely.directory .. "/state/not/there/yet"
    local text = check(0)
    has(text, "ok    database: the private PostgreSQL")
    has(text, "ok    StateDirectory: " .. queue.StateDirectory .. ", ")
    has(text, "ok    OutputDirectory: " .. queue.OutputDirectory .. " is made at the start, ")
    has(text, "ok    sandbox: works")
    -- While it runs, as its user and as root.
    lonely:launch()
    has(check(0), "ok    database: reached")
    if process.is_root then has(process.run({ Server.program(), "check", "--connect" }, { cwd = lonely.directory,
      env = { PATH = os.getenv "PATH", BuildQueue__RunAsUser = process.ordinary_user().name } }).output,
      "ok    database: reached") end
    lonely:stop()
    -- What can't work, all at once.
    process.write(lonely.directory .. "/file", "")
    queue.ConnectionString = "postgresql://127.0.0.1:1/nothing"
    queue.OutputDirectory = lonely.directory .. "/closed"
    process.check { "mkdir", "-m", "0", queue.OutputDirectory }
    if process.is_root then process.check { "chown", "12345", queue.OutputDirectory } end -- root's own is given over
    queue.WorkspaceDirectory = lonely.directory .. "/file/below"
    queue.DiskReserveMegabytes = 2147483647
    text = check(1)
    has(text, "FAULT database: can't reach the database")
    has(text, "FAULT OutputDirectory: " .. queue.OutputDirectory .. " can't be written by ")
    has(text, "FAULT WorkspaceDirectory: " .. queue.WorkspaceDirectory .. " can't be written by ")
    has(text, "FAULT StateDirectory: " .. queue.StateDirectory .. ", ")
    has(text:gsub("[^\n]*MB free, ", ""), "less than DiskReserveMegabytes (2147483647)")
    has(text, "ok    sandbox: works")
    has(text, "4 faults")
  end)

  it("take a manifest from a pipe", function()
    local answer = server:command({ "enqueue", "--server", "http://" .. server.address, "--customer-id", "c1",
      "--customer-name", "C", "--customer-email", "c@example.org", "--configuration", "piped", "--pipeline", "quick",
      "--manifest", "-" }, { stdin = json.encode(MANIFEST) })
    assert.equal(0, answer.code, answer.errors)
    builds.await(server, answer.output:match "^(%S+)", "success")
  end)

  it("show whole names in a pipe, and nothing that moves the cursor", function()
    local name = ("a customer whose name is long "):rep(3)
    local customer = name .. "\u{9b}2J\u{202e}end"
    local id = builds.submit(server, { customerId = customer })
    builds.await(server, id, "success")
    -- As an old writer may do, whom no request check holds up.
    server:sql(("update build_queue set configuration_name = E'\\x1b[2Jmain' where id = '%s'"):format(id))
    local listed = ask("list", "--customer", customer).output
    assert.truthy(listed:find(name .. " 2J end", 1, true), listed)
    assert.truthy(listed:find(" [2Jmain", 1, true), listed)
    local shown = ask("status", id).output
    assert.truthy(shown:find("configurationName      [2Jmain", 1, true), shown)
    assert.falsy((listed .. shown):find("\27", 1, true))
    assert.falsy((listed .. shown):find("\u{202e}", 1, true))
    -- Programs get what is there.
    assert.equal(customer, json.decode(ask("status", id, "--json").output).customerId)
  end)

  it("show a bar in a terminal, which moves, and plain lines in a pipe", function()
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    local line = ("'%s' status %s --follow --server http://%s"):format(Server.program(), id, server.address)
    local env = uv.os_environ()
    env.TERM = "xterm"
    local terminal = process.spawn({ "script", "-qec", line, "/dev/null" }, { env = env })
    local pipe = process.spawn({ "sh", "-c", line }, { env = env })
    process.wait_for(function() return terminal.output:find "Waiting" and pipe.output:find "Waiting" end, 20)
    builds.open_gate(server, id)
    assert.equal(0, terminal:wait(20))
    assert.equal(0, pipe:wait(20))
    assert.truthy(terminal.output:find "\r[^\n]*%[#+%.+%] +20%% Waiting", ("%q"):format(terminal.output))
    assert.is_nil(pipe.output:find "[\r\27#]", pipe.output)
    assert.truthy(pipe.output:find "building +20%% Waiting\n.*success 100%%", pipe.output)
  end)

  it("follow across a restart of the server, and say so once", function()
    local restarted = Server.start { scripts = builds.scripts() }
    restarted.config.BuildQueue.Listen = restarted.address -- the next start is where the follower looks
    restarted:write_config()
    local id = builds.submit(restarted, { pipeline = "gate" })
    builds.await(restarted, id, "building")
    local follower = process.spawn({ Server.program(), "status", id, "--follow", "--server",
      "http://" .. restarted.address }, { env = restarted:environment() })
    process.wait_for(function() return follower.output:find("Waiting", 1, true) end, 10, "the follower to see it")
    restarted:kill "sigkill"
    process.wait_for(function() return follower.errors:find("does not answer any more", 1, true) end, 10, "the loss")
    restarted:launch()
    builds.await(restarted, id, "building")
    builds.open_gate(restarted, id, 2)
    assert.equal(0, follower:wait(40), follower.errors)
    assert.truthy(follower.output:find("success 100% Build complete", 1, true), follower.output)
    assert.equal(1, select(2, follower.errors:gsub("\n", "\n")), follower.errors)
    restarted:stop()
    -- Nobody waits for a server that isn't there at first.
    local absent = command("status", id, "--follow", "--server", "http://" .. restarted.address)
    assert.equal(3, absent.code)
    assert.equal(1, select(2, absent.errors:gsub("\n", "\n")), absent.errors)
  end)

  it("ask no proxy for this machine, nor for what no_proxy names", function()
    local env = server:environment()
    env.http_proxy = "http://127.0.0.1:1"
    assert.equal(0, server:command({ "stats", "--server", "http://" .. server.address }, { env = env }).code)
    local proxied = server:command({ "stats", "--server", "http://buildq.invalid" }, { env = env })
    assert.truthy(proxied.errors:find("127.0.0.1 port 1 ", 1, true), proxied.errors)
    env.no_proxy = "buildq.invalid"
    local direct = server:command({ "stats", "--server", "http://buildq.invalid" }, { env = env })
    assert.falsy(direct.errors:find("127.0.0.1 port 1 ", 1, true), direct.errors)
  end)

  it("have help and a place in the manual page, each", function()
    local manual = process.check({ "sh", "core/cli/data/manual.sh", Server.program() }):gsub("\\%-", "-")
    local codes = { "Exit codes: 0 done", "3 no server answers" }
    local count = 0
    for name in process.run({ Server.program(), "help" }).output:gmatch "\n  (%w+)" do
      count = count + 1
      local help = process.run { Server.program(), name, "--help" }
      assert.equal(0, help.code, name)
      for _, text in ipairs(codes) do assert.truthy(help.output:find(text, 1, true), name .. ":\n" .. help.output) end
      assert.equal(help.output, process.run({ Server.program(), "help", name }).output)
      local own = manual:match("\n%.SS " .. name .. "\n%.nf\n%.in 1n\n(.-\n)%.fi\n")
      local said = help.output:gsub("\nMandatory or.*", ""):gsub("\nExit codes.*", ""):gsub("\n[^\n]+Give [^\n]+", "")
      assert.equal((said:gsub("%s*$", "\n")), own)
    end
    assert.is_true(count >= 18)
    assert.truthy(manual:find("EXIT STATUS", 1, true))
    assert.truthy(manual:find("BUILDQ_SERVER", 1, true))
    local long = command("version", "--nonsense")
    assert.equal(2, long.code)
    assert.equal(2, ask("resume", "everything").code)
  end)

  it("bring the schema up to date and ask before the old service's builds go", function()
    assert.equal(0, command("migrate").code)
    server:sql "update queue_control set adopted_builds = 7, retention_allowed = false"
    assert.truthy(command("retention", "show").output:find('"adoptedBuilds": 7', 1, true))
    assert.equal(1, command("retention", "confirm", "8").code)
    assert.equal("f", server:sql "select retention_allowed from queue_control")
    assert.equal(0, command("retention", "confirm", "7").code)
    assert.equal("t", server:sql "select retention_allowed from queue_control")
  end)

  it("write a configuration that loads, and help that names the near", function()
    local example = command("config", "init")
    process.write(server.directory .. "/example.json", example.output)
    assert.equal(0, server:command({ "config", "show", "--config", server.directory .. "/example.json" }).code)
    local near = command "sttaus"
    assert.equal(2, near.code)
    assert.truthy(near.errors:find("did you mean status", 1, true), near.errors)
  end)
end)
