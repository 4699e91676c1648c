-- Many reloads beside requests and builds, every way a file can change, and the bound on generations.
-- BUILDQ_RELOADS=10000 does as many.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local SANITIZED <const> = (os.getenv "BUILDQ_BUILD" or "build") ~= "build"
local RELOADS <const> = tonumber(os.getenv "BUILDQ_RELOADS" or 300)

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

describe("thousands of reloads", function()
  it("fail no request and no build, and leave memory as it was", function()
    local server = Server.start {
      config = { BuildQueue = { MaxConcurrentBuilds = 4, MaxRetryAttempts = 0, PollIntervalSeconds = 1 } },
      scripts = builds.scripts { ["pipelines/word.lua"] = pipeline "0" },
    }
    finally(function() server:stop() end)
    local bad, ids, early = 0, {}, nil
    for n = 1, RELOADS do
      server:write("scripts", { ["pipelines/word.lua"] = pipeline(tostring(n % 50)) })
      local reload = server:connect(30)
      reload:send(("POST /admin/reload HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
        .. "Content-Length: 2\r\nConnection: close\r\n\r\n{}"):format(server.address))
      if n % 5 == 0 then ids[#ids + 1] = builds.submit(server, { pipeline = "word" }) end
      if server:get("/builds/statistics").status ~= 200 then bad = bad + 1 end
      if server:get("/healthz").status ~= 200 then bad = bad + 1 end
      local answer = reload:receive "*a"
      reload:close()
      if not answer:find("^HTTP/1.1 200") then
        bad = bad + 1
        assert.truthy(#answer > 0 and answer:find "^HTTP/1.1 422" and answer:find "in use", answer)
      end
      if n == RELOADS // 3 then early = resident_kilobytes(server) end
    end
    assert.equal(0, bad)
    for _, id in ipairs(ids) do builds.await(server, id, "success", 60) end
    -- A sanitizer keeps what is freed, to tell of its use.
    assert.truthy(SANITIZED or resident_kilobytes(server) < early + 16 * 1024,
      ("%d kB after a third, %d at the end"):format(early, resident_kilobytes(server)))
    local live = tonumber(server:get("/metrics").body:match "\nbuildq_script_generations_live (%d+)")
    assert.truthy(live <= 2, live)
  end)
end)

describe("a change on disk", function()
  local server, root

  -- Waits until the pipeline says another word; returns how.
  local function changes(word, make)
    make()
    server:wait_for(function()
      local build = builds.run(server, { pipeline = "word" })
      return builds.log(server, build.id):find(word, 1, true)
    end, 10, "the word " .. word)
  end

  setup(function()
    root = process.directory()
    run("mkdir", "-p", root .. "/v1/pipelines", root .. "/v2/pipelines")
    run("chmod", "-R", "a+rX", root)
    for _, v in ipairs { "v1", "v2" } do
      for path, text in pairs(builds.scripts { ["pipelines/word.lua"] = pipeline(v) }) do
        run("mkdir", "-p", root .. "/" .. v .. "/" .. path:match "^(.*)/")
        local file <close> = assert(io.open(root .. "/" .. v .. "/" .. path, "w"))
        file:write(text)
      end
    end
    run("ln", "-s", "v1", root .. "/release")
    server = Server.start {
      config = { BuildQueue = { ScriptDirectory = root .. "/release", PollIntervalSeconds = 1 } },
    }
  end)

  teardown(function()
    if server then server:stop() end
  end)

  it("may be a symlinked release directory that is switched", function()
    changes("v1", function() end)
    changes("v2", function() run("ln", "-sfn", "v2", root .. "/release") end)
  end)

  it("may be an editor's rename over the old file", function()
    changes("renamed", function()
      local file = assert(io.open(root .. "/v2/pipelines/.word.tmp", "w"))
      file:write(pipeline "renamed")
      file:close()
      os.rename(root .. "/v2/pipelines/.word.tmp", root .. "/v2/pipelines/word.lua")
    end)
  end)

  it("may be a new subdirectory, and one that goes", function()
    local before = ready(server).generation
    run("mkdir", "-p", root .. "/v2/lib/deep")
    local file = assert(io.open(root .. "/v2/lib/deep/voice.lua", "w"))
    file:write 'return "deep"'
    file:close()
    changes("from the deep", function()
      local user = assert(io.open(root .. "/v2/pipelines/word.lua", "w"))
      user:write 'return { run = function(build) build:log("from the " .. require "deep.voice") end }'
      user:close()
    end)
    changes("shallow", function()
      local user = assert(io.open(root .. "/v2/pipelines/word.lua", "w"))
      user:write(pipeline "shallow")
      user:close()
      run("rm", "-r", root .. "/v2/lib/deep")
    end)
    assert.not_equal(before, ready(server).generation)
  end)

  it("may be a git checkout of many files: one generation of all of them", function()
    local tree = root .. "/v2"
    local function git(...)
      return run("git", "-C", tree, "-c", "user.name=x", "-c", "user.email=x@example.org", ...)
    end
    local function fill(word)
      for n = 1, 60 do
        local file <close> = assert(io.open(("%s/lib/part%d.lua"):format(tree, n), "w"))
        file:write(("return %q"):format(word))
      end
      local file <close> = assert(io.open(tree .. "/pipelines/word.lua", "w"))
      file:write [[return { run = function(build)
        local first = require "part1"
        for n = 2, 60 do assert(require("part" .. n) == first, "a mixture") end
        build:log("all say " .. first)
      end }]]
    end
    git("init", "-q", "-b", "one")
    fill "one"
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    git("checkout", "-q", "-b", "two")
    fill "two"
    git("commit", "-q", "-a", "-m", "two")
    changes("all say two", function() end)
    changes("all say one", function() git("checkout", "-q", "one") end)
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
