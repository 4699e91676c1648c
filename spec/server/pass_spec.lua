-- Two servers with directories of their own on one database: what one has, the other passes through.
local uv = require "luv"
local Server = require "spec.support.server"
local Stream = require "spec.support.stream"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local MEGABYTES <const> = 64

local scripts <const> = builds.scripts {
  ["pipelines/short.lua"] = [[
    return { run = function(build)
      build:log "first"
      build:log "second"
    end }]],
  ["pipelines/files.lua"] = ([[
    local fs = require("buildq").fs
    return { run = function(build)
      fs.write("hello+world.txt", "hello from attempt " .. build.attempt .. "\n")
      build:artifact "hello+world.txt"
      build:exec { argv = { "truncate", "-s", "%dM", "large.bin" } }
      build:artifact "large.bin"
      build:log "made all"
    end }]]):format(MEGABYTES),
}

describe("what another node has", function()
  local a, b       -- builds run on a, b is asked
  local busy       -- of b: keeps its only slot
  local id         -- of a finished build of a
  local log, path

  local function problem(answer, status, text)
    assert.equal(status, answer.status, answer.body)
    assert.equal("application/problem+json", answer.headers["content-type"])
    assert.truthy(answer.json.detail:find(text, 1, true), answer.body)
    assert.equal(answer.headers["x-request-id"], answer.json.requestId)
  end

  -- Where node a answers, as the database knows it, for the time of `fn`.
  local function with_url(url, fn)
    local old = a:sql(("select url from nodes where id = '%s'"):format(a.node))
    local function set(text) a:sql(("update nodes set url = '%s' where id = '%s'"):format(text, a.node)) end
    set(url)
    local ok, message = pcall(fn)
    set(old)
    if not ok then error(message, 0) end
  end

  setup(function()
    local config = { BuildQueue = {
      MaxConcurrentBuilds = 1, MaxRetryAttempts = 0, GracefulShutdownTimeoutSeconds = 1,
    } }
    a = Server.start { config = config, scripts = scripts }
    local first = builds.submit(a, { pipeline = "gate" })
    builds.await(a, first, "building")
    b = Server.start { config = config, scripts = scripts, database = a.database }
    b:wait_for(function() return b:log():find("joined the cluster", 1, true) end, 20)
    busy = builds.submit(b, { pipeline = "gate" })
    builds.await(b, busy, "building")
    a.node = a:sql(("select node_id from build_queue where id = '%s'"):format(first))
    builds.open_gate(a, first)
    builds.await(a, first, "success")
    id = builds.run(a, { pipeline = "files" }).id
    path = ("/downloads/%s/"):format(id)
    log = builds.log(a, id)
  end)

  teardown(function()
    if b then b:stop() end
    if a then a:stop() end
  end)

  it("is downloaded whole, with its length, name and ETag", function()
    local direct, passed = a:get(path .. "hello+world.txt"), b:get(path .. "hello+world.txt")
    assert.same({ 200, "hello from attempt 1\n" }, { passed.status, passed.body })
    for _, name in ipairs { "etag", "content-length", "content-type", "content-disposition", "accept-ranges" } do
      assert.equal(direct.headers[name], passed.headers[name], name)
    end
    local head = b:request("HEAD", path .. "large.bin")
    assert.same({ 200, tostring(MEGABYTES * 1024 * 1024), "" },
      { head.status, head.headers["content-length"], head.body })
  end)

  it("is downloaded in parts, and not when it is known", function()
    local part = b:get(path .. "hello+world.txt", { Range = "bytes=6-9" })
    assert.same({ 206, "from", "bytes 6-9/21" }, { part.status, part.body, part.headers["content-range"] })
    local known = b:get(path .. "hello+world.txt", { ["If-None-Match"] = part.headers.etag })
    assert.same({ 304, "", part.headers.etag }, { known.status, known.body, known.headers.etag })
    local beyond = b:get(path .. "hello+world.txt", { Range = "bytes=100-" })
    problem(beyond, 416, "nothing in that range")
    assert.equal("bytes */21", beyond.headers["content-range"])
    assert.equal(404, b:get(path .. "nothing").status)
  end)

  it("is read no faster than the client takes it", function()
    local function memory() return tonumber(process.read(("/proc/%d/statm"):format(b.child.pid)):match "^%d+ (%d+)") end
    for _ = 1, 20 do assert.equal(200, b:get("/healthz").status) end
    local before = memory()
    local connection = b:connect(60)
    connection:send(("GET %slarge.bin HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"):format(path, b.address))
    local first = connection:receive(1000)
    for _ = 1, 50 do assert.equal(200, b:get("/healthz").status) end
    assert.truthy(memory() - before < 4000, "pages grown by " .. memory() - before)
    local rest = connection:receive "*a"
    connection:close()
    local head = first:match "^HTTP/1%.1 200 .-\r\n\r\n"
    assert.equal(MEGABYTES * 1024 * 1024, #first + #rest - #head)
  end)

  it("is a log from any offset", function()
    local passed = b:get(("/builds/%s/log"):format(id))
    assert.same({ 200, log, "1", "text/plain; charset=utf-8" },
      { passed.status, passed.body, passed.headers["x-build-attempt"], passed.headers["content-type"] })
    assert.equal(log:sub(11), builds.log(b, id, "?offset=10"))
    assert.equal("", builds.log(b, id, "?offset=" .. #log))
    assert.equal(200, b:request("HEAD", ("/builds/%s/log"):format(id)).status)
  end)

  it("is a short log of a build that was over at once: it has no file, and every server has it", function()
    local short = builds.run(a, { pipeline = "short" }).id
    local text = builds.log(a, short)
    assert.matches("^%S+ sys| first\n%S+ sys| second\n$", text)
    assert.equal(text, builds.log(b, short))
    assert.equal(text, builds.log(b, short, "?follow=1"))
    assert.equal(text:sub(11), builds.log(b, short, "?offset=10"))
    assert.equal("", builds.log(a, short, "?offset=" .. #text))
    assert.equal(200, b:request("HEAD", ("/builds/%s/log"):format(short)).status)
    local row = a:rows(("select log from build_attempts where build_id = '%s'"):format(short))[1]
    if row.log then assert.is_nil(uv.fs_stat(("%s/state/logs/%s"):format(a.directory, short))) end
    assert.is_nil(uv.fs_stat(("%s/output/%s"):format(a.directory, short)))
  end)

  it("is a log without a command, which has a file soon", function()
    local next = builds.submit(a, { pipeline = "gate" })
    local file = ("%s/state/logs/%s/attempt-1.log"):format(a.directory, next)
    a:wait_for(function() return process.read(file):find "waiting" end, 20, "the file")
    builds.open_gate(a, next)
    builds.await(a, next, "success")
    assert.equal(process.read(file), builds.log(b, next))
  end)

  it("is a log that is followed, also from before its build begins", function()
    a:post("/queue/pause", { reason = "spec" })
    local next = builds.submit(b, { pipeline = "gate" })
    local early = Stream.open(b, ("/builds/%s/log?follow=1"):format(next))
    b:wait_for(function() return early:take().status end, 10, "a head")
    a:post "/queue/resume"
    early:wait_for "waiting"
    local late = Stream.open(b, ("/builds/%s/log?follow=1"):format(next)):wait_for "waiting"
    assert.same({ false, false }, { early.ended, late.ended })
    builds.open_gate(a, next)
    for _, stream in ipairs { early, late } do
      stream:wait_for("gone through"):wait_end()
      assert.equal(builds.log(a, next), stream.body)
    end
  end)

  it("is not passed on twice", function()
    problem(b:get(path .. "hello+world.txt", { ["X-Buildq-Passed"] = "http://127.0.0.1:1" }), 404, "not on this server")
    assert.equal("", b:get(("/builds/%s/log"):format(id), { ["X-Buildq-Passed"] = "http://127.0.0.1:1" }).body)
    -- A node at our own address is an earlier life of ours.
    with_url("http://" .. b.address, function()
      problem(b:get(path .. "hello+world.txt"), 404, "not on this server")
    end)
  end)

  it("is not taken from a stranger who has the node's address now", function()
    with_url(("http://%s/healthz?"):format(a.address), function()
      problem(b:get(path .. "hello+world.txt"), 502, "answered 200 and not what was asked for")
      problem(b:get(("/builds/%s/log"):format(id)), 502, "answered 200 and not what was asked for")
    end)
  end)

  it("is 404 when it is there no more", function()
    local file = ("%s/output/%s/attempt-1/hello+world.txt"):format(a.directory, id)
    assert(uv.fs_rename(file, file .. ".gone"))
    finally(function() uv.fs_rename(file .. ".gone", file) end)
    problem(b:get(path .. "hello+world.txt"), 404, "not on its node any more")
  end)

  it("is 503 while the node can't be reached, and what it was sending is cut", function()
    local running = builds.submit(a, { pipeline = "gate" })
    builds.await(a, running, "building")
    local stream = Stream.open(b, ("/builds/%s/log?follow=1"):format(running)):wait_for "waiting"
    a:kill "sigkill"
    a.child:wait(10)
    b:wait_for(function() return stream:take().broken or stream.ended end, 10, "the end")
    assert.is_false(stream.ended)
    -- The answer names the node.
    for _, what in ipairs { path .. "hello+world.txt", ("/builds/%s/log"):format(id) } do
      problem(b:get(what), 503, ("the node at http://%s, which ran this attempt"):format(a.address))
      problem(b:get(what), 503, "can't be reached")
    end
    -- Its successors in the same directories have its files, wherever they answer.
    for round = 1, 2 do
      if round == 2 then a:stop() end
      a:launch()
      b:wait_for(function() return builds.log(b, id) == log end, 10, "the log from the successor")
    end
    assert.same({ 200, "hello from attempt 1\n" }, { b:get(path .. "hello+world.txt").status,
      b:get(path .. "hello+world.txt").body })
  end)

  it("does not hold up a stop", function()
    local running = a:wait_for(function()
      for _, build in ipairs(a:get("/builds?status=building").json.builds) do
        if build.id ~= busy then return build.id end
      end
    end, 20, "a build on the other node")
    local stream = Stream.open(b, ("/builds/%s/log?follow=1"):format(running)):wait_for "waiting"
    assert.equal(0, b:stop())
    assert.truthy(stream:take().broken)
  end)
end)
