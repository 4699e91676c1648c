-- What goes on for long: logs that are followed, events, downloads.
local uv = require "luv"
local json = require "dkjson"
local Server = require "spec.support.server"
local Stream = require "spec.support.stream"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local server

setup(function()
  server = Server.start {
    config = { BuildQueue = { MaxConcurrentBuilds = 3, MaxLogMegabytes = 1, MaxRetryAttempts = 0,
      MaxConnectionsPerPeer = 400, GracefulShutdownTimeoutSeconds = 1 } },
    scripts = builds.scripts {
      -- 3 MB of numbered lines.
      ["pipelines/chatty.lua"] = [[return { run = function(build)
        build:exec { argv = { "seq", "-f", "line-%07g-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "60000" } }
        build:log "said all"
      end }]],
      -- A line every few milliseconds, until the gate is opened.
      ["pipelines/ticking.lua"] = [[
        local buildq = require "buildq"
        return { run = function(build)
          local n = 0
          while not buildq.fs.exists "go" do
            n = n + 1
            build:log("tick " .. n)
            buildq.sleep(0.02)
          end
          build:log "stopped"
        end }]],
      ["pipelines/stepping.lua"] = [[
        local buildq = require "buildq"
        return { run = function(build)
          for _, at in ipairs { 10, 40, 70 } do
            build:step("Step " .. at, { at = at }, function()
              while not buildq.fs.exists("go" .. at) do buildq.sleep(0.02) end
            end)
          end
        end }]],
      ["pipelines/telling.lua"] = [[
        local buildq = require "buildq"
        return { run = function(build)
          local function wait(name) while not buildq.fs.exists("go" .. name) do buildq.sleep(0.02) end end
          build:step("Making", { at = 10 }, function()
            wait "M"
            build:progress(10, "1 of 2")
            wait "1"
            build:progress(10, "2 of 2")
            wait "2"
          end)
          build:step("Done", { at = 50 }, function() wait "D" end)
        end }]],
      ["routes/spec.lua"] = [[
        local buildq = require "buildq"
        local response, sleep = buildq.response, buildq.sleep
        local kept, ended
        return {
          { method = "GET", path = "/spec/lines", handle = function()
            return response.stream(function(write)
              for n = 1, 5 do
                write(("line %d\n"):format(n))
                sleep(0.1)
              end
            end, { status = 203, headers = { ["Content-Type"] = "text/plain", ["X-Spec"] = "yes" } })
          end },
          { method = "GET", path = "/spec/endless", handle = function()
            return response.stream(function(write)
              kept = write
              local ok, err
              repeat ok, err = pcall(write, ("x"):rep(10000)) until not ok
              ended = err.kind
            end)
          end },
          { method = "GET", path = "/spec/kept", handle = function()
            local ok, err = pcall(kept, "late")
            return { json = { ok = ok, kind = err and err.kind, ended = ended } }
          end },
          { method = "GET", path = "/spec/breaks", handle = function()
            return response.stream(function(write) write "begun" error "broke in the middle" end)
          end },
        }]],
      ["pipelines/files.lua"] = [[
        local fs = require("buildq").fs
        return { run = function(build)
          fs.write("hello.txt", "hello from attempt " .. build.attempt .. "\n")
          build:artifact "hello.txt"
          fs.write("large.bin", ("0123456789abcdef"):rep(64 * 1024))
          build:artifact "large.bin"
          if build.metadata.fail then build:fail "as asked" end
        end }]],
    },
  }
end)

teardown(function()
  if server then server:stop() end
end)

local function log_path(id, query) return ("/builds/%s/log%s"):format(id, query or "") end

-- Open descriptors of the server, where we may count them, and its connections by its own count.
local function open_things()
  local connections = tonumber(server:get("/metrics").body:match "\nbuildq_http_connections (%d+)")
  local listing = uv.fs_scandir(("/proc/%d/fd"):format(server.child.pid))
  local count = 0
  while listing and uv.fs_scandir_next(listing) do count = count + 1 end
  return connections, count
end

describe("a log", function()
  it("has each line with time and stream, and any byte on by its offset", function()
    local id = builds.run(server).id
    local whole = builds.log(server, id)
    assert.truthy(whole:find "%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ sys| quick\n", whole)
    for _, offset in ipairs { 0, 1, 10, #whole - 1, #whole } do
      assert.equal(whole:sub(offset + 1), builds.log(server, id, "?offset=" .. offset))
    end
    assert.equal("", builds.log(server, id, "?offset=" .. #whole + 1000))
    assert.equal(whole, builds.log(server, id, "?attempt=1&follow=1"))
    local answer = server:get(log_path(id))
    assert.equal("text/plain; charset=utf-8", answer.headers["content-type"])
    assert.equal("1", answer.headers["x-build-attempt"])
  end)

  it("is followed live: lines come before the build ends, and its end ends it", function()
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    local stream = Stream.open(server, log_path(id, "?follow=1")):wait_for "waiting"
    assert.equal(200, stream.status)
    assert.equal("building", server:get("/builds/" .. id).json.status)
    assert.is_false(stream.ended)
    local late = Stream.open(server, log_path(id, "?follow=1&offset=" .. #stream.body))
    builds.open_gate(server, id)
    stream:wait_for("gone through"):wait_end()
    late:wait_end()
    assert.equal(builds.log(server, id), stream.body)
    assert.truthy(late.body:find "gone through")
    assert.is_nil(late.body:find "waiting")
  end)

  it("of a build that waits is empty without follow; with it, the first attempt is waited for", function()
    server:post("/queue/pause", { reason = "spec" })
    local id = builds.submit(server, { pipeline = "gate" })
    local cancelled = builds.submit(server)
    local over = Stream.open(server, log_path(cancelled, "?follow=1"))
    local plain = Stream.open(server, log_path(id)):wait_end()
    assert.same({ 200, "", "0" }, { plain.status, plain.body, plain.headers["x-build-attempt"] })
    local streams = { Stream.open(server, log_path(id, "?follow=1")),
      Stream.open(server, log_path(id, "?follow=1&attempt=1")) }
    local gone = Stream.open(server, log_path(id, "?follow=1"))
    for _, stream in ipairs { over, streams[1], streams[2], gone } do
      server:wait_for(function() return stream:take().status end, 10, "a head")
      assert.same({ 200, false, "1" }, { stream.status, stream.ended, stream.headers["x-build-attempt"] })
    end
    gone:close()
    -- One that ends without an attempt ends its stream.
    assert.equal(200, server:post(("/builds/%s/cancel"):format(cancelled)).status)
    over:wait_end()
    assert.equal("", over.body)
    assert.is_false(streams[1]:take().ended)
    server:post("/queue/resume")
    for _, stream in ipairs(streams) do
      stream:wait_for "waiting"
      assert.is_false(stream.ended)
    end
    builds.open_gate(server, id)
    for _, stream in ipairs(streams) do
      stream:wait_for("gone through"):wait_end()
      assert.equal(builds.log(server, id), stream.body)
    end
  end)

  it("of a running build without follow ends at what is there", function()
    local id = builds.submit(server, { pipeline = "gate" })
    server:wait_for(function() return builds.log(server, id):find "waiting" end, 10)
    assert.is_nil(builds.log(server, id):find "gone")
    builds.open_gate(server, id)
    builds.await(server, id, "success")
  end)

  it("is cut at MaxLogMegabytes, the gap marked and offsets still those of all that was written", function()
    local id = builds.run(server, { pipeline = "chatty" }).id
    local text = builds.log(server, id)
    assert.truthy(#text < 1.2 * 1024 * 1024, #text)
    assert.truthy(text:find("line-0000001-", 1, true) and text:find("line-0060000-", 1, true), "head and end")
    local head, gone, on = text:match "^(.*\n)[^\n]-(%d+) bytes left out, it goes on at offset (%d+)[^\n]*\n"
    assert.truthy(head, "no mark of the gap")
    on = tonumber(on)
    assert.equal(on, #head + tonumber(gone))
    local tail = builds.log(server, id, "?offset=" .. on)
    assert.truthy(tail:find "^%d%d%d%d%-[^\n]+line%-%d+%-x+\n", tail:sub(1, 200))
    assert.equal(tail, text:sub(-#tail))
    -- From within the gap the reader hears of it too.
    assert.truthy(builds.log(server, id, "?offset=" .. on - 1000):find "^[^\n]*bytes left out, it goes on at offset")
    local directory = ("%s/state/logs/%s"):format(server.directory, id)
    local bytes = tonumber(process.check { "du", "-sb", "--apparent-size", directory }:match "%d+")
    assert.truthy(bytes < 1.1 * 1024 * 1024, bytes)
  end)

  it("is never slowed by a reader that does not read", function()
    local deaf = {}
    for i = 1, 4 do deaf[i] = server:connect() end
    local began = uv.hrtime()
    local id = builds.submit(server, { pipeline = "chatty" })
    builds.await(server, id, "building|success")
    for _, connection in ipairs(deaf) do
      connection:setoption("tcp-nodelay", true)
      connection:send(("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n"):format(log_path(id, "?follow=1"), server.address))
    end
    builds.await(server, id, "success", 20)
    assert.truthy((uv.hrtime() - began) / 1e9 < 20)
    assert.equal(200, server:get("/healthz").status)
    for _, connection in ipairs(deaf) do connection:close() end
  end)

  it("is the same for many followers", function()
    local id = builds.submit(server, { pipeline = "ticking" })
    builds.await(server, id, "building")
    local streams = {}
    for i = 1, 100 do streams[i] = Stream.open(server, log_path(id, "?follow=1")) end
    for _, stream in ipairs(streams) do stream:wait_for "tick 3\n" end
    builds.open_gate(server, id)
    for _, stream in ipairs(streams) do stream:wait_end() end
    builds.await(server, id, "success")
    local whole = builds.log(server, id)
    assert.truthy(whole:find "stopped")
    for _, stream in ipairs(streams) do assert.equal(whole, stream.body) end
  end)
end)

describe("a client that goes away", function()
  it("leaves no stream open", function()
    local id = builds.submit(server, { pipeline = "ticking" })
    builds.await(server, id, "building")
    -- Its log has a file by now, which stays open.
    server:wait_for(function()
      return process.read(("%s/state/logs/%s/attempt-1.log"):format(server.directory, id)) ~= ""
    end, 10, "the log's file")
    -- Connections of earlier tests are gone when this holds.
    server:wait_for(function() return open_things() == 1 end, 10, "no connection but ours")
    local connections, files = open_things()
    local streams = {}
    for i = 1, 20 do
      streams[#streams + 1] = Stream.open(server, log_path(id, "?follow=1"))
      streams[#streams + 1] = Stream.open(server, ("/builds/%s/events"):format(id))
      streams[#streams + 1] = Stream.open(server, "/events?customerId=c" .. i)
    end
    for i, stream in ipairs(streams) do
      if i % 3 ~= 0 then stream:wait_for(i % 3 == 1 and "tick" or "started") end
    end
    server:wait_for(function() return open_things() == connections + 60 end, 10, "60 streams")
    for _, stream in ipairs(streams) do stream:close() end
    server:wait_for(function()
      local now, open = open_things()
      return now == connections and open <= files
    end, 10, "all streams to be closed")
    builds.open_gate(server, id)
    builds.await(server, id, "success")
  end)
end)

describe("events of a build", function()
  local function go(id, at) process.write(("%s/go%d"):format(builds.workspace(server, id), at), "") end
  local finished

  it("come with ids and progress as it happens, and end with the build", function()
    local id = builds.submit(server, { pipeline = "stepping" })
    local stream = Stream.open(server, ("/builds/%s/events"):format(id))
    for _, at in ipairs { 10, 40, 70 } do
      stream:wait_for("Step " .. at)
      assert.is_false(stream.ended)
      go(id, at)
    end
    stream:wait_end()
    assert.equal("text/event-stream", stream.headers["content-type"])
    local events, last, percent, types = stream:events(), 0, -1, {}
    for _, event in ipairs(events) do
      types[#types + 1] = event.event
      if event.event == "progress" then
        assert.is_nil(event.id)
        assert.truthy(event.data.progressPercent >= percent)
        percent = event.data.progressPercent
      else
        assert.equal(last + 1, tonumber(event.id))
        last = tonumber(event.id)
        assert.equal(last, event.data.seq)
      end
    end
    assert.same({ "queued", "started", "success" }, { types[1], types[2], types[#types] })
    assert.truthy(percent >= 70)
    finished = id
  end)

  it("tell what the pipeline says of its progress, until the next step", function()
    local id = builds.submit(server, { pipeline = "telling" })
    local stream = Stream.open(server, ("/builds/%s/events"):format(id))
    local function last()
      local events = stream:take():events()
      for i = #events, 1, -1 do
        if events[i].event == "progress" then return events[i].data end
      end
      return {}
    end
    for _, expected in ipairs {
      { 10, "Making" }, { 10, "Making", "1 of 2" }, { 10, "Making", "2 of 2" }, { 50, "Done" },
    } do
      server:wait_for(function()
        local data = last()
        local text = data.progressText
        return data.progressPercent == expected[1] and data.currentStep == expected[2] and text == expected[3]
      end, 20, function() return table.concat(expected, " ") .. "; the last is " .. json.encode(last()) end)
      process.write(builds.workspace(server, id) .. "/go" .. (expected[3] or expected[2]):sub(1, 1), "")
    end
    stream:wait_end()
    assert.truthy(builds.log(server, id):find("sys| 1 of 2\n", 1, true))
  end)

  it("have a comment now and then, so that nobody takes a quiet stream for a dead one", function()
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    local of_build = Stream.open(server, ("/builds/%s/events"):format(id))
    local of_customer = Stream.open(server, "/events?customerId=nobody-else")
    for _, stream in ipairs { of_build, of_customer } do
      server:wait_for(function() return ("\n" .. stream:take().body):find "\n:[^\n]*\n" end, 40, "a comment")
    end
    of_customer:close()
    builds.open_gate(server, id)
    of_build:wait_end()
  end)

  it("are replayed behind Last-Event-ID", function()
    local path = ("/builds/%s/events"):format(finished)
    local all = Stream.open(server, path):wait_end():events()
    assert.equal(3, #all)
    for seen = 0, 3 do
      local rest = Stream.open(server, path, { ["Last-Event-ID"] = tostring(seen) }):wait_end():events()
      assert.equal(3 - seen, #rest)
      if seen < 3 then assert.same(all[seen + 1], rest[1]) end
    end
    assert.equal(400, server:get(path, { ["Last-Event-ID"] = "x" }).status)
  end)

  it("come from a change by plain SQL too", function()
    server:post("/queue/pause", { reason = "spec" })
    local id = builds.submit(server)
    local stream = Stream.open(server, ("/builds/%s/events"):format(id)):wait_for "queued"
    server:sql(("update build_queue set priority = 3 where id = '%s'"):format(id))
    stream:wait_for "event: priority"
    server:post "/queue/resume"
    stream:wait_end()
    assert.truthy(stream.body:find "event: success")
  end)
end)

describe("events of a customer", function()
  it("begin with what is unfinished, then tell every change of that customer only", function()
    local old = builds.run(server, { customerId = "watched" }).id
    local running = builds.submit(server, { customerId = "watched", pipeline = "gate" })
    builds.await(server, running, "building")
    local stream = Stream.open(server, "/events?customerId=watched"):wait_for(running)
    assert.is_nil(stream.body:find(old, 1, true))
    local other = builds.run(server, { customerId = "other" }).id
    local new = builds.submit(server, { customerId = "watched" })
    stream:wait_for(new)
    builds.await(server, new, "success")
    builds.open_gate(server, running)
    server:wait_for(function()
      stream:take()
      local last = {}
      for _, event in ipairs(stream:events()) do
        assert.equal("build", event.event)
        last[event.data.id] = event.data.status
      end
      return last[running] == "success" and last[new] == "success"
    end, 10, "both ends")
    assert.is_nil(stream.body:find(other, 1, true))
    assert.is_false(stream.ended)
    stream:close()
  end)
end)

describe("a body that a route writes by and by", function()
  it("comes while it is written, with the route's status and headers", function()
    local stream = Stream.open(server, "/spec/lines"):wait_for "line 1\n"
    assert.is_false(stream.ended)
    stream:wait_end()
    assert.equal("line 1\nline 2\nline 3\nline 4\nline 5\n", stream.body)
    assert.same({ 203, "text/plain", "yes" },
      { stream.status, stream.headers["content-type"], stream.headers["x-spec"] })
    assert.truthy(stream.headers["x-request-id"])
    local head = server:request("HEAD", "/spec/lines")
    assert.same({ 203, "" }, { head.status, head.body })
  end)

  it("waits for a slow reader, and ends when it has gone", function()
    local connection = server:connect()
    connection:send(("GET /spec/endless HTTP/1.1\r\nHost: %s\r\n\r\n"):format(server.address))
    assert.truthy(connection:receive(1000))
    local function memory()
      return tonumber(process.read(("/proc/%d/statm"):format(server.child.pid)):match "^%d+ (%d+)")
    end
    local before = memory()
    for _ = 1, 20 do assert.equal(200, server:get("/healthz").status) end
    -- A sanitizer keeps what is freed, to tell of its use.
    local sanitized = (os.getenv "BUILDQ_BUILD" or "build") ~= "build"
    assert.truthy(sanitized or memory() - before < 5000, "pages grown by " .. memory() - before)
    connection:close()
    server:wait_for(function() return server:get("/spec/kept").json.ended == "canceled" end, 10, "its end")
    assert.same({ ok = false, kind = "canceled", ended = "canceled" }, server:get("/spec/kept").json)
  end)

  it("that breaks off is logged, and the client sees that it is cut", function()
    local stream = Stream.open(server, "/spec/breaks")
    server:wait_for(function() return stream:take().broken or stream.ended end, 10, "the end")
    assert.same({ "begun", false }, { stream.body, stream.ended })
    assert.truthy(server:log():find("broke in the middle", 1, true))
  end)
end)

describe("a download", function()
  local id, path, content

  setup(function()
    local build = builds.run(server, { pipeline = "files" })
    id, path = build.id, ("/downloads/%s/"):format(build.id)
    content = ("0123456789abcdef"):rep(64 * 1024)
    assert.truthy(build.outputPath:find("/" .. id .. "/attempt-1", 1, true), build.outputPath)
  end)

  it("has the file, its type, its tag and a name to save it as", function()
    local answer = server:get(path .. "hello.txt")
    assert.same({ 200, "hello from attempt 1\n" }, { answer.status, answer.body })
    assert.truthy(answer.headers["content-type"]:find "text/plain")
    assert.equal('attachment; filename="hello.txt"', answer.headers["content-disposition"])
    assert.equal("nosniff", answer.headers["x-content-type-options"])
    local listed = server:get(("/builds/%s/artifacts"):format(id)).json
    assert.equal(1, listed.attempt)
    for _, artifact in ipairs(listed.artifacts) do
      local file = server:get(artifact.url)
      assert.equal(200, file.status, artifact.url)
      assert.equal(artifact.size, #file.body)
      assert.equal(('"%s"'):format(artifact.sha256), file.headers.etag)
    end
  end)

  it("comes whole when it is large, and in ranges", function()
    assert.equal(content, server:get(path .. "large.bin").body)
    for range, wanted in pairs { ["bytes=0-9"] = { 1, 10 }, ["bytes=1048570-"] = { 1048571, 1048576 },
      ["bytes=-16"] = { 1048561, 1048576 }, ["bytes=100-99999999"] = { 101, 1048576 } } do
      local answer = server:get(path .. "large.bin", { Range = range })
      assert.equal(206, answer.status, range)
      assert.equal(content:sub(wanted[1], wanted[2]), answer.body)
      assert.equal(("bytes %d-%d/1048576"):format(wanted[1] - 1, wanted[2] - 1), answer.headers["content-range"])
    end
    local beyond = server:get(path .. "large.bin", { Range = "bytes=1048576-" })
    assert.equal(416, beyond.status)
    assert.equal("bytes */1048576", beyond.headers["content-range"])
    -- What is no range that we know is not there.
    assert.equal(200, server:get(path .. "large.bin", { Range = "lines=1-2" }).status)
  end)

  it("is not sent again to whom has it, and only in part when it is still the same", function()
    local tag = server:get(path .. "hello.txt").headers.etag
    local same = server:get(path .. "hello.txt", { ["If-None-Match"] = tag })
    assert.same({ 304, "" }, { same.status, same.body })
    assert.equal(200, server:get(path .. "hello.txt", { ["If-None-Match"] = '"other"' }).status)
    assert.equal(206, server:get(path .. "hello.txt", { Range = "bytes=0-4", ["If-Range"] = tag }).status)
    assert.equal(200, server:get(path .. "hello.txt", { Range = "bytes=0-4", ["If-Range"] = '"other"' }).status)
  end)

  it("says with HEAD what GET would send", function()
    local answer = server:request("HEAD", path .. "large.bin")
    assert.same({ 200, "", "1048576" }, { answer.status, answer.body, answer.headers["content-length"] })
    assert.equal(server:get(path .. "large.bin").headers.etag, answer.headers.etag)
  end)

  it("is only of what was published", function()
    for _, name in ipairs { "nope.txt", "..", "%2e%2e", "..%2fattempt-1%2fhello.txt", ".attempt-1.partial", "" } do
      local status = server:get(path .. name).status
      assert.truthy(status == 404 or status == 400, name .. " " .. status)
    end
    process.write(("%s/output/%s/attempt-1/planted.txt"):format(server.directory, id), "x")
    assert.equal(404, server:get(path .. "planted.txt").status)
    local failed = builds.run(server, { pipeline = "files", metadata = { fail = true } }, "failed").id
    assert.equal(404, server:get(("/downloads/%s/hello.txt"):format(failed)).status)
    server:wait_for(function()
      return process.check { "find", server.directory .. "/output", "-path", "*" .. failed .. "*" } == ""
    end, 10, "the files of the failed attempt to be removed")
  end)

  it("is never of a stale attempt", function()
    server:post("/queue/pause", { reason = "spec" })
    assert.equal(202, server:post(("/builds/%s/retry"):format(id)).status)
    assert.equal(404, server:get(path .. "hello.txt").status)
    assert.same({}, server:get(("/builds/%s/artifacts"):format(id)).json.artifacts)
    server:post "/queue/resume"
    builds.await(server, id, "success")
    assert.equal("hello from attempt 2\n", server:get(path .. "hello.txt").body)
  end)
end)
