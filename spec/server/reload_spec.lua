-- Many reloads beside requests and builds, every way a file can change, and the bound on generations.
-- BUILDQ_RELOADS=100 does fewer.
local uv = require "luv"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local SANITIZED <const> = (os.getenv "BUILDQ_BUILD" or "build") ~= "build"
local RELOADS <const> = tonumber(os.getenv "BUILDQ_RELOADS") or SANITIZED and 300 or 10000

local function ready(server) return server:get("/readyz").json end

local function pipeline(word) return ("return { run = function(build) build:log %q end }\n"):format(word) end

local function resident_kilobytes(server)
  local file <close> = assert(io.open(("/proc/%d/status"):format(server.child.pid)))
  return tonumber(file:read("a"):match "VmRSS:%s*(%d+)")
end

local function run(...)
  local done = process.run { ... }
  assert.equal(0, done.code, done.errors)
  return done.output
end

-- A connection that is kept: ask(method, path), then answer() → status, body. The two may be apart.
local function keep(server)
  local connection = server:connect(30)
  local function ask(method, path)
    local body = method == "POST" and "{}" or ""
    assert(connection:send(([[
%s %s HTTP/1.1
Host: %s
Content-Type: application/json
Content-Length: %d

%s]]):gsub("\n", "\r\n"):format(method, path, server.address, #body, body)))
  end
  local function answer()
    local status, length = assert(connection:receive "*l"):match "^HTTP/1.1 (%d+)", 0
    repeat
      local line = assert(connection:receive "*l")
      length = tonumber(line:match "^[Cc]ontent%-[Ll]ength: (%d+)") or length
    until line == ""
    return tonumber(status), length > 0 and assert(connection:receive(length)) or ""
  end
  return ask, answer
end

describe(("%d reloads"):format(RELOADS), function()
  local PARTS <const> = 10 -- the runner wants to see something now and then
  local server, early
  local ids = {}

  setup(function()
    server = Server.start {
      config = { BuildQueue = { MaxConcurrentBuilds = 4, MaxRetryAttempts = 0, PollIntervalSeconds = 1 } },
      scripts = builds.scripts { ["pipelines/word.lua"] = pipeline "0" },
    }
  end)
  teardown(function()
    if server then server:stop() end
  end)

  local function reload_times(part)
    local path = server.directory .. "/scripts/pipelines/word.lua"
    local reload, reloaded = keep(server)
    local ask, answer = keep(server)
    local first <const>, last <const> = RELOADS * (part - 1) // PARTS + 1, RELOADS * part // PARTS
    for n = first, last do
      process.write(path .. ".new", pipeline(tostring(n % 50)))
      assert(uv.fs_rename(path .. ".new", path))
      reload("POST", "/admin/reload")
      for _, asked in ipairs { "/builds/statistics", "/healthz", "/builds?limit=1" } do -- while it is under way
        ask("GET", asked)
        local status, body = answer()
        assert.equal(200, status, body)
      end
      if n % 20 == 0 then ids[#ids + 1] = builds.submit(server, { pipeline = "word" }) end
      local status, body = reloaded()
      assert.equal(200, status, body)
    end
  end

  for part = 1, PARTS do
    it(("fail no request: part %d of %d"):format(part, PARTS), function()
      reload_times(part)
      if part == 3 then early = resident_kilobytes(server) end
    end)
  end

  it("fail no build", function()
    for _, id in ipairs(ids) do builds.await(server, id, "success", 60) end
  end)

  it("leave memory as it was, and old generations gone", function()
    -- A sanitizer keeps what is freed, to tell of its use.
    local now = resident_kilobytes(server)
    assert.truthy(SANITIZED or now < early + 16 * 1024, ("%d kB after a third, %d at the end"):format(early, now))
    server:wait_for(function()
      return tonumber(server:get("/metrics").body:match "\nbuildq_script_generations_live (%d+)") <= 2
    end, 10, "old generations to be freed")
  end)
end)

describe("a change on disk is active within 200 ms of the last write, be it", function()
  local ACTIVE_SECONDS <const>, TRIES <const> = SANITIZED and 10 or 0.2, 20
  local server, root

  local function save(path, text) process.write(root .. "/" .. path, text) end
  local function route(word)
    return ("return { method = 'GET', path = '/word', handle = function() return { body = %q } end }\n"):format(word)
  end

  -- Makes the change with word after word until one was active soon enough: the machine may be busy. Always the route
  -- says it in the end, and builds too.
  local function is_soon_active(make)
    local best = math.huge
    for try = 1, TRIES do
      local word = ("word %d"):format(try)
      make(word, try)
      local began = uv.hrtime()
      server:wait_for(function() return server:get("/word").body == word end, 10, word)
      best = math.min(best, (uv.hrtime() - began) / 1e9)
      if best < ACTIVE_SECONDS then
        assert.truthy(builds.log(server, builds.run(server, { pipeline = "word" }).id):find(word, 1, true))
        return
      end
    end
    error(("the best of %d took %.0f ms"):format(TRIES, best * 1000))
  end

  local function write_release(name, word)
    run("mkdir", "-p", root .. "/" .. name .. "/pipelines", root .. "/" .. name .. "/routes")
    save(name .. "/pipelines/word.lua", pipeline(word))
    save(name .. "/routes/word.lua", route(word))
  end

  setup(function()
    root = process.directory()
    run("chmod", "a+rX", root)
    write_release("v1", "begin")
    run("ln", "-s", "v1", root .. "/release")
    server = Server.start {
      config = { BuildQueue = { ScriptDirectory = root .. "/release", PollIntervalSeconds = 1 } },
    }
    assert.equal("begin", server:get("/word").body)
  end)

  teardown(function()
    if server then server:stop() end
  end)

  it("a symlinked release directory that is switched", function()
    is_soon_active(function(word, try)
      local name = ("v%d"):format(try + 1)
      write_release(name, word)
      if try % 2 == 1 then
        run("ln", "-sfn", name, root .. "/release")
      else -- as careful tools do it
        run("ln", "-s", name, root .. "/next")
        assert(uv.fs_rename(root .. "/next", root .. "/release"))
      end
    end)
  end)

  it("files that are written over", function()
    is_soon_active(function(word)
      save("release/pipelines/word.lua", pipeline(word))
      save("release/routes/word.lua", route(word))
    end)
  end)

  it("an editor's rename over the old file", function()
    is_soon_active(function(word)
      for kind, text in pairs { pipelines = pipeline(word), routes = route(word) } do
        local path = ("%s/release/%s/word.lua"):format(root, kind)
        save(("release/%s/.word.lua.swp"):format(kind), text)
        assert(uv.fs_rename(path, path .. "~"))
        assert(uv.fs_rename(("%s/release/%s/.word.lua.swp"):format(root, kind), path))
      end
    end)
  end)

  it("a new subdirectory with a file in it", function()
    is_soon_active(function(word, try)
      local text = ('return require "deep%d.er.voice"'):format(try)
      save("release/pipelines/word.lua", text .. ".pipeline")
      save("release/routes/word.lua", text .. ".route")
      run("mkdir", "-p", ("%s/release/lib/deep%d/er"):format(root, try))
      save(("release/lib/deep%d/er/voice.lua"):format(try), ([[return {
        pipeline = { run = function(build) build:log %q end },
        route = { method = "GET", path = "/word", handle = function() return { body = %q } end },
      }]]):format(word, word))
    end)
  end)

  it("a subdirectory that goes", function()
    is_soon_active(function(word)
      save("release/pipelines/word.lua", pipeline(word))
      save("release/routes/word.lua", route(word))
      run("mkdir", "-p", root .. "/release/lib/deep1")
      run("rm", "-r", root .. "/release/lib")
    end)
    local files = server:get("/generations/" .. server:get("/readyz").json.generation).json.files
    for _, file in ipairs(files) do assert.is_nil(file.path:find("lib/deep", 1, true)) end
  end)

  it("a git checkout of many files, which is one generation of all of them", function()
    local tree = root .. "/release/"
    local function git(...)
      return run("git", "-C", tree, "-c", "user.name=x", "-c", "user.email=x@example.org", ...)
    end
    git("init", "-q", "-b", "begin")
    for try = 1, TRIES do
      local word = ("word %d"):format(try)
      run("mkdir", "-p", tree .. "lib")
      for n = 1, 60 do save(("release/lib/part%d.lua"):format(n), ("return %q"):format(word)) end
      save("release/routes/word.lua", route(word))
      save("release/pipelines/word.lua", ([[return { run = function(build)
        for n = 1, 60 do assert(require("part" .. n) == %q, "a mixture") end
        build:log %q
      end }]]):format(word, word))
      git("add", "-A")
      git("commit", "-q", "-m", word)
      git("tag", ("t%d"):format(try))
    end
    is_soon_active(function(_, try) git("checkout", "-q", ("t%d"):format(try)) end)
  end)
end)

describe("the bound on generations", function()
  it("refuses a change with the reason, until builds on old ones have ended", function()
    local server = Server.start {
      config = { BuildQueue = { MaxConcurrentBuilds = 4, MaxGenerations = 3, PollIntervalSeconds = 1 } },
      scripts = builds.scripts {},
    }
    finally(function() server:stop() end)
    local waiting = {}
    for n = 1, 2 do
      server:wait_for(function() -- a build starts on the newest generation that is safely stored
        local stored = "select count(*) from script_generations where hash = '%s'"
        return server:sql(stored:format(ready(server).generation)) == "1"
      end, 10, "the generation to be stored")
      waiting[n] = builds.submit(server, { pipeline = "gate" })
      assert.equal(ready(server).generation, builds.await(server, waiting[n], "building").generation)
      server:write("scripts", { ["pipelines/word.lua"] = pipeline(tostring(n)) })
      assert.equal(200, server:post("/admin/reload").status)
    end
    server:write("scripts", { ["pipelines/word.lua"] = pipeline "too many" })
    local refusal = server:post("/admin/reload")
    assert.equal(422, refusal.status)
    assert.truthy(refusal.json.detail:find("MaxGenerations", 1, true), refusal.json.detail)
    assert.equal("degraded", ready(server).status)
    for _, id in ipairs(waiting) do
      builds.open_gate(server, id)
      builds.await(server, id, "success")
    end
    server:wait_for(function() return server:post("/admin/reload").status == 200 end, 10, "the change to be taken")
    builds.run(server, { pipeline = "word" })
  end)
end)
