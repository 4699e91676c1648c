-- Scripts that change while the server runs, and what it makes of what they say.
local uv = require "luv"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local server

-- A pipeline that runs these lines.
local function pipeline(lines) return ("return { run = function(build)\n%s\nend }\n"):format(lines) end

-- A route at GET `path` that runs these lines.
local function route(path, lines)
  return ("return { method = 'GET', path = %q, handle = function(request)\n%s\nend }\n"):format(path, lines)
end

local function ready(of) return (of or server):get("/readyz").json end

local function check_of(health, name)
  for _, check in ipairs(health.checks) do
    if check.name == name then return check end
  end
end

-- Saves files and waits until a generation with them is active; returns the seconds it took and its name.
local function save(files, of)
  of = of or server
  local before = ready(of).generation
  of:write("scripts", files)
  local began = uv.hrtime()
  local generation = of:wait_for(function()
    local now = ready(of).generation
    return now ~= before and now
  end, 10, "another generation")
  return (uv.hrtime() - began) / 1e9, generation
end

setup(function()
  server = Server.start {
    config = { BuildQueue = { MaxConcurrentBuilds = 4, MaxRetryAttempts = 0, LuaCpuSeconds = 1,
      LuaMemoryMegabytes = 16, GracefulShutdownTimeoutSeconds = 1, MaxConnectionsPerPeer = 400 } },
    scripts = builds.scripts {
      ["pipelines/version.lua"] = pipeline [[
        local fs, sleep = require("buildq").fs, require("buildq").sleep
        build:log "version one"
        if build.metadata.wait then while not fs.exists "go" do sleep(0.02) end end
        build:log(require("word").text)
      ]],
      ["lib/word.lua"] = [[return { text = "word one" }]],
    },
  }
end)

teardown(function()
  if server then server:stop() end
end)

describe("a saved script", function()
  it("is active within a second; running builds finish on the generation they began with", function()
    local old = ready().generation
    local running = builds.submit(server, { pipeline = "version", metadata = { wait = true } })
    server:wait_for(function() return builds.log(server, running):find "version one" end, 10)
    local best = 10
    for n = 2, 4 do -- the best of three: the machine may be busy
      best = math.min(best, (save {
        ["pipelines/version.lua"] = pipeline('build:log "version ' .. n .. '" build:log(require("word").text)'),
        ["lib/word.lua"] = ('return { text = "word %d" }'):format(n),
      }))
    end
    assert.truthy(best < 1, best)
    local new = builds.run(server, { pipeline = "version" })
    assert.equal(ready().generation, new.generation)
    local log = builds.log(server, new.id)
    assert.truthy(log:find "version 4" and log:find "word 4", log)

    builds.open_gate(server, running)
    local finished = builds.await(server, running, "success")
    assert.equal(old, finished.generation)
    assert.equal(old, server:sql(("select generation from build_queue where id = '%s'"):format(running)))
    log = builds.log(server, running)
    assert.truthy(log:find "word one" and not log:find "word 4", log)
  end)

  it("may be a new route, and win over a shipped one", function()
    assert.equal(404, server:get("/spec/hello").status)
    save { ["routes/hello.lua"] = route("/spec/{who}", "return { json = { hello = request.params.who } }") }
    assert.same({ hello = "world" }, server:get("/spec/world").json)
    save { ["routes/queue.lua"] = route("/builds/statistics", "return { json = { mine = true } }") }
    assert.same({ mine = true }, server:get("/builds/statistics").json)
    assert.equal(404, server:get("/queue").status)
    assert(uv.fs_unlink(server.directory .. "/scripts/routes/queue.lua"))
    server:wait_for(function() return server:get("/queue").status == 200 end, 10, "the shipped route")
    assert.truthy(server:get("/builds/statistics").json.asOf)
  end)

  it("that is broken changes nothing, and file, line and reason are to be seen", function()
    local before = ready()
    assert.equal("ok", before.status)
    for _, case in ipairs {
      { "pipelines/broken.lua", "return {\n  run = = 1\n}\n", "pipelines/broken.lua:2:" },
      { "pipelines/broken.lua", "local x = nil\n\nreturn x.y\n", "pipelines/broken.lua:3:" },
      { "pipelines/broken.lua", "return { run = 1 }\n", "pipelines/broken.lua" },
      { "pipelines/broken.lua", "return { run = function() end,\n check = function()\n error 'not today' end }\n",
        "pipelines/broken.lua:3: not today" },
      { "routes/broken.lua", "return { method = 'GET', path = '/builds', handle = function() end }\n",
        "routes/broken.lua" },
      { "lib/broken.lua", "return {\n", "lib/broken.lua:" },
      { "pipelines/broken.lua", "while true do end\n", "pipelines/broken.lua" },
    } do
      local from = #server:log()
      server:write("scripts", { [case[1]] = case[2] })
      server:wait_for(function()
        local check = check_of(ready(), "scripts")
        return check.status == "degraded" and check.message:find(case[3], 1, true)
      end, 10, function() return case[3] .. " in /readyz: " .. server:get("/readyz").body end)
      local answer = server:get "/readyz"
      assert.equal(200, answer.status)
      assert.same({ true, "degraded", before.generation },
        { answer.json.ready, answer.json.status, answer.json.generation })
      assert.truthy(server:log():find(case[3], from, true), server:log():sub(from))
      assert.truthy(server:get("/metrics").body:find('\nbuildq_script_fault_info{fault="[^\n]*broken.lua'))
      assert.truthy(builds.log(server, builds.run(server, { pipeline = "version" }).id):find "version 4")
      assert(uv.fs_unlink(("%s/scripts/%s"):format(server.directory, case[1])))
      server:wait_for(function() return ready().status == "ok" end, 10, "the fault to be gone")
    end
    local metrics = server:get("/metrics").body
    assert.truthy(metrics:find "\nbuildq_script_reload_errors_total [1-9]")
    assert.is_nil(metrics:find "\nbuildq_script_fault_info{")
    assert.equal(before.generation, ready().generation)
  end)

  it("mended is active at once", function()
    server:write("scripts", { ["routes/mend.lua"] = "return {" })
    server:wait_for(function() return ready().status == "degraded" end, 10)
    save { ["routes/mend.lua"] = route("/mended", "return { body = 'yes' }") }
    assert.equal("ok", ready().status)
    assert.equal("yes", server:get("/mended").body)
  end)

  it("is not tried again until something changes", function()
    local function errors()
      return tonumber(server:get("/metrics").body:match "\nbuildq_script_reload_errors_total (%d+)")
    end
    local before = errors()
    server:write("scripts", { ["routes/broken.lua"] = "return {" })
    server:wait_for(function() return ready().status == "degraded" end, 10)
    builds.run(server, { pipeline = "version" })
    uv.sleep(1500)
    assert.equal(before + 1, errors())
    assert(uv.fs_unlink(server.directory .. "/scripts/routes/broken.lua"))
    server:wait_for(function() return ready().status == "ok" end, 10)
  end)

  it("counts for SIGHUP too, and the log says what has changed", function()
    server:write("scripts", { ["routes/hup.lua"] = route("/hup", "return { body = 'one' }"), ["lib/hup.lua"] = "" })
    server:wait_for(function() return server:get("/hup").status == 200 end, 10)
    local from = #server:log()
    server:write("scripts", { ["routes/hup.lua"] = route("/hup", "return { body = 'two' }"), ["lib/hup2.lua"] = "" })
    assert(uv.fs_unlink(server.directory .. "/scripts/lib/hup.lua"))
    server:kill "sighup"
    local change = "added scripts/lib/hup2.lua, changed scripts/routes/hup.lua, removed scripts/lib/hup.lua"
    server:wait_for(function() return server:log():find(change, from, true) end, 10, change)
    assert.truthy(server:log():find("reading the configuration", from, true))
    assert.equal("two", server:get("/hup").body)
    assert.equal("ok", ready().status)
  end)

  it("has its memory in the metrics, each generation that is alive", function()
    local bytes = server:get("/metrics").body:match(
      ('\nbuildq_script_generation_bytes{generation="%s"} (%%d+)'):format(ready().generation))
    assert.truthy(tonumber(bytes) > 100000, bytes)
  end)
end)

describe("ScriptDirectory as a link to a release", function()
  it("follows the link when it is switched", function()
    local releases = process.directory()
    for _, name in ipairs { "one", "two" } do
      process.check { "mkdir", "-p", releases .. "/" .. name .. "/routes" }
      process.write(releases .. "/" .. name .. "/routes/release.lua",
        route("/release", ("return { body = %q }"):format(name)))
    end
    assert(uv.fs_symlink("one", releases .. "/current"))
    local linked = Server.start { config = { BuildQueue = { ScriptDirectory = releases .. "/current" } } }
    assert.equal("one", linked:get("/release").body)
    for _, name in ipairs { "two", "one" } do
      assert(uv.fs_symlink(name, releases .. "/next"))
      assert(uv.fs_rename(releases .. "/next", releases .. "/current"))
      linked:wait_for(function() return linked:get("/release").body == name end, 10, "the release " .. name)
    end
    linked:stop()
  end)
end)

describe("reloads under load", function()
  it("let no request fail: 300 requests during 50 reloads", function()
    local requests, failed, before = 0, 0, ready().generation
    local function request(path)
      local answer = server:get(path)
      requests = requests + 1
      if answer.status ~= 200 then failed = failed + 1 end
      return answer.json
    end
    for turn = 1, 50 do
      server:write("scripts",
        { ["routes/turn.lua"] = route("/builds/statistics/turn", ("return { json = { turn = %d } }"):format(turn)) })
      for _ = 1, 3 do request "/builds?limit=1" end
      server:wait_for(function()
        for _, path in ipairs { "/builds/statistics", "/builds?limit=1", "/readyz" } do request(path) end
        local now = ready().generation
        local new = now ~= before
        before = now
        return new
      end, 10, "turn " .. turn)
      assert.equal(turn, request("/builds/statistics/turn").turn)
    end
    assert.truthy(requests >= 300, requests)
    assert.equal(0, failed)
    -- The old ones are let go of.
    server:wait_for(function()
      return tonumber(server:get("/metrics").body:match "\nbuildq_script_generations_live (%d+)") <= 2
    end, 10, "old generations to be freed")
  end)
end)

describe("what a pipeline says", function()
  it("is made text before it reaches the database", function()
    save { ["pipelines/bytes.lua"] = pipeline [[
      build:step("Step \xff", { at = 20 }, function() build:log "log \xfe" build:progress(50, "\xfd") end)
      build:result { imageUrl = "registry/\xfc" }
      if build.metadata.fail then error("broken \xfb") end
    ]] }
    local build = builds.run(server, { pipeline = "bytes" })
    assert.same({ 1, "registry/?" }, { build.attempt, build.imageUrl })
    build = builds.run(server, { pipeline = "bytes", metadata = { fail = true } }, "failed")
    assert.equal(1, build.attempt)
    assert.truthy(build.errorMessage:find "broken %?", build.errorMessage)
    assert.truthy(utf8.len(builds.log(server, build.id)))
  end)

  it("and the database refuses all the same is a failure, and no build that starts for ever", function()
    save { ["pipelines/refused.lua"] = pipeline 'build:result { imageUrl = "refused" }' }
    server:sql "alter table build_queue add constraint spec check (image_url is distinct from 'refused')"
    local build = builds.run(server, { pipeline = "refused" }, "failed")
    server:sql "alter table build_queue drop constraint spec"
    assert.equal(1, build.attempt)
    assert.truthy(build.errorMessage:find("refused by the database", 1, true), build.errorMessage)
  end)
end)

describe("the request of a route", function()
  setup(function()
    save { ["routes/request.lua"] = [[
      local sleep = require("buildq").sleep
      local kept, late
      return {
        { method = "POST", path = "/request/{what}/{id}", handle = function(request)
          kept = request
          local names = {}
          for name in pairs(request) do names[#names + 1] = name end
          table.sort(names)
          local step = pairs(request)
          assert(not pcall(step) and not pcall(step, 1)) -- not a way into the server
          request.mine = "set"
          return { json = { names = names, method = request.method, path = request.path, params = request.params,
            query = request.query, type = request.headers["content-type"], id = request.id, body = request.body,
            given = request:json(), mine = request.mine, absent = request.absent == nil,
            same = request.query == request.query,
            metatable = getmetatable(request), kind = type(request) } }
        end },
        { method = "GET", path = "/request/kept", handle = function()
          local first = kept.path
          local ok, message = pcall(function() return kept.unread, kept.unread end)
          return { json = { first = first, ok = ok, message = message } }
        end },
        { method = "GET", path = "/request/lazy", handle = function(request) kept = request return { body = "" } end },
        { method = "GET", path = "/request/over", handle = function()
          local ok, message = pcall(function() return kept.headers end)
          return { json = { ok = ok, message = message, unknown = kept.unknown == nil } }
        end },
        { method = "GET", path = "/request/dropped", handle = function(request)
          request = nil
          for n = 1, 20000 do local _ = { n } end
          sleep(0.01)
          return { body = "dropped" }
        end },
        { method = "GET", path = "/request/slow/{id}", handle = function(request)
          late = "waits"
          sleep(0.3)
          late = request.params.id .. " " .. request.query.q .. " " .. request.headers["x-spec"]
          return { body = late }
        end },
        { method = "GET", path = "/request/late", handle = function() return { body = late or "" } end },
      }
    ]] }
  end)

  it("has all its fields, each made once, and takes others", function()
    local answer = server:post("/request/a%20b/7?q=1&r=x+y", '{"n": 1}',
      { ["X-Request-Id"] = "spec-1", ["Content-Type"] = "application/json" })
    assert.same({ names = { "body", "headers", "id", "json", "method", "params", "path", "query" }, method = "POST",
      path = "/request/a b/7", params = { what = "a b", id = "7" }, query = { q = "1", r = "x y" },
      type = "application/json", id = "spec-1", body = '{"n": 1}', given = { n = 1 }, mine = "set", absent = true,
      same = true, metatable = false, kind = "table" }, answer.json)
    local kept = server:get("/request/kept").json
    assert.same({ first = "/request/a b/7", ok = true }, kept) -- what was read stays
  end)

  it("says so when it is read for the first time after its answer", function()
    assert.equal(200, server:get("/request/lazy").status)
    local over = server:get("/request/over").json
    assert.is_false(over.ok)
    assert.truthy(over.message:find("request.headers: this request has been answered", 1, true), over.message)
    assert.is_true(over.unknown)
  end)

  it("may be dropped by its handler", function()
    assert.equal("dropped", server:get("/request/dropped").body)
  end)

  it("can be read when its client has gone", function()
    local client = server:connect()
    client:setoption("linger", { on = true, timeout = 0 }) -- a reset: a half-closed one would still get its answer
    client:send(("GET /request/slow/9?q=2 HTTP/1.1\r\nHost: %s\r\nX-Spec: here\r\n\r\n"):format(server.address))
    server:wait_for(function() return server:get("/request/late").body == "waits" end, 5, "the handler to wait")
    client:close()
    server:wait_for(function() return server:get("/request/late").body == "9 2 here" end, 5, "what it has read")
  end)
end)

describe("a hostile route", function()
  setup(function()
    save {
      ["routes/hostile.lua"] = ([[return {
        { method = "GET", path = "/hostile/loop", handle = function() while true do end end },
        { method = "GET", path = "/hostile/error", handle = function() error "secret detail" end },
        { method = "GET", path = "/hostile/nothing", handle = function() end },
        { method = "GET", path = "/hostile/split", handle = function()
          return { headers = { ["X-A"] = "a\r\nX-B: b" }, body = "" } end },
        { method = "GET", path = "/hostile/status", handle = function() return { status = 99 } end },
        { method = "GET", path = "/hostile/waits", handle = function()
          require("buildq").sleep(0.3) return { body = "waited" } end },
      }]]),
    }
  end)

  for _, name in ipairs { "error", "nothing", "split", "status" } do
    it(name .. " is answered 500, and the next request is fine", function()
      local from = #server:log()
      local answer = server:get("/hostile/" .. name)
      assert.equal(500, answer.status, answer.body)
      assert.equal("application/problem+json", answer.headers["content-type"])
      assert.is_nil(answer.body:find("secret detail", 1, true))
      assert.is_nil(answer.headers["x-b"])
      local logged = server:log():sub(from)
      assert.truthy(logged:find(answer.headers["x-request-id"], 1, true), logged)
      assert.equal(200, server:get("/builds?limit=1").status)
      assert.equal(200, server:get("/healthz").status)
    end)
  end

  it("harms none that waits beside it", function()
    local connection = server:connect()
    connection:send(("GET /hostile/waits HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"):format(server.address))
    assert.equal(500, server:get("/hostile/loop").status)
    local answer = connection:receive "*a"
    connection:close()
    assert.truthy(answer:find "^HTTP/1.1 200" and answer:find "waited", answer)
  end)
end)
