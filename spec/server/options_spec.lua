-- Options of the old service that other specs don't turn the other way.
local uv = require "luv"
local json = require "dkjson"
local socket = require "socket"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

local PIPELINES <const> = builds.scripts {
  ["pipelines/failing.lua"] = 'return { run = function() error "no luck" end }\n',
  ["pipelines/file.lua"] = [[
    local buildq = require "buildq"
    return { run = function(build)
      buildq.fs.mkdir "out"
      buildq.fs.write("out/x", "x")
      buildq.archive.pack { dir = "out", to = "x.tar.zst" }
      build:artifact("x.tar.zst", { kind = "archive" })
    end }
  ]],
}

describe("an option", function()
  it("UseExponentialBackoff false keeps the delay, MaxRetryAttempts bounds the tries", function()
    local server = Server.start {
      config = { BuildQueue = { UseExponentialBackoff = false, RetryDelayMinutes = 10, MaxRetryAttempts = 2,
        PollIntervalSeconds = 1 } },
      scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "failing" })
    for failure = 1, 2 do
      server:wait_for(function() return server:get("/builds/" .. id).json.retryCount == failure end, 30)
      local minutes = tonumber(server:sql(("select extract(epoch from run_after - updated_at) / 60 from build_queue "
        .. "where id = '%s'"):format(id)))
      assert.truthy(minutes > 8.9 and minutes < 11.1, minutes)
      server:sql(("update build_queue set run_after = now() where id = '%s'"):format(id))
    end
    assert.equal(3, builds.await(server, id, "failed").attempt)
    server:stop()
  end)

  it("EnableGracefulShutdown false gives running builds no time", function()
    local server = Server.start { config = { BuildQueue = { EnableGracefulShutdown = false } }, scripts = PIPELINES }
    local id = builds.submit(server, { pipeline = "gate" })
    builds.await(server, id, "building")
    assert.equal(0, server:stop())
    assert.equal("pending|0", server:sql(("select status, retry_count from build_queue where id = '%s'"):format(id)))
  end)

  it("DownloadBaseUrl is what customers see, else the server's address", function()
    local server = Server.start {
      config = { BuildQueue = { DownloadBaseUrl = "https://builds.example.org/get/" } }, scripts = PIPELINES }
    local build = builds.run(server, { pipeline = "file" })
    assert.equal(("https://builds.example.org/get/downloads/%s/x.tar.zst"):format(build.id), build.downloadUrl)
    server:stop()
    server.config.BuildQueue.DownloadBaseUrl = nil
    server:write_config()
    server:launch()
    build = builds.run(server, { pipeline = "file" })
    assert.equal(("http://%s/downloads/%s/x.tar.zst"):format(server.address, build.id), build.downloadUrl)
    assert.equal(200, server:get(("/downloads/%s/x.tar.zst"):format(build.id)).status)
    server:stop()
  end)
end)

describe("an option read anew at SIGHUP", function()
  local function change(server, name, value)
    server.config.BuildQueue[name] = value
    server:write_config()
    server:kill "sighup"
  end

  it("is the new one for routes and builds, whose states have copies of the options", function()
    local server = Server.start { scripts = { ["pipelines/minutes.lua"] = [[
      return { run = function(build) build:log("minutes=" .. build.config.BuildTimeoutMinutes) end }
    ]] } }
    local function minutes() return builds.log(server, builds.run(server, { pipeline = "minutes" }).id) end
    assert.truthy(minutes():find "minutes=60")
    assert.equal(200, server:get("/healthz").status)
    server.config.BuildQueue.BuildTimeoutMinutes = 61
    change(server, "EnableHealthChecks", false)
    server:wait_for(function() return server:get("/healthz").status == 404 end, 10, "the routes to have it")
    assert.truthy(minutes():find "minutes=61")
    server:stop()
  end)

  it("SandboxNetwork false leaves a build no network but its own", function()
    local server = Server.start { scripts = { ["pipelines/net.lua"] = [[
      return { run = function(build)
        local done = build:exec { argv = { "readlink", "/proc/self/ns/net" }, capture = true }
        build:log("net=" .. done.output)
      end }
    ]] } }
    local ours = assert(uv.fs_readlink "/proc/self/ns/net")
    local function network()
      return builds.log(server, builds.run(server, { pipeline = "net" }).id):match "net=(net:%S+)"
    end
    assert.equal(ours, network())
    change(server, "SandboxNetwork", false)
    server:wait_for(function()
      local seen = assert(network())
      return seen ~= ours
    end, 20, "a build without the network")
    change(server, "SandboxNetwork", true)
    server:wait_for(function() return network() == ours end, 20, "a build with the network")
    server:stop()
  end)

  it("LogFormat json makes each line of the log an object", function()
    local server = Server.start { scripts = PIPELINES }
    assert.is_nil(server:log():find "^{")
    change(server, "LogFormat", "json")
    -- The line of this build's start; a line by itself is whole, or it is not found.
    local function line_of_build()
      local id = builds.submit(server, { pipeline = "file" })
      builds.await(server, id, "success")
      for line in server:log():gmatch "[^\n]+" do
        if line:find("attempt started", 1, true) and line:find(id, 1, true) then return line, id end
      end
    end
    local line, id
    server:wait_for(function()
      line, id = line_of_build()
      return line and line:sub(1, 1) == "{"
    end, 20, "a line in JSON")
    local read = assert(json.decode(line), line)
    assert.equal("attempt started", read.message)
    assert.equal("info", read.level)
    assert.equal(id, read.build)
    change(server, "LogFormat", "text")
    server:wait_for(function()
      line = line_of_build()
      return line and line:find "^%d+%-%d+%-%d+T%S+ info  attempt started build="
    end, 20, "a line of text")
    server:stop()
  end)
end)

describe("an option of the database", function()
  it("MigrateAtStart false leaves the schema to `buildq migrate`", function()
    local server = Server.new { config = { BuildQueue = { MigrateAtStart = false } }, scripts = PIPELINES }
    local refused = server:command { "serve" }
    assert.equal(1, refused.code)
    assert.matches("run `buildq migrate`", refused.errors, 1, true)
    assert.equal("f", server:sql "select to_regclass('build_queue') is not null")
    assert.equal(0, server:command({ "migrate" }).code)
    server:launch()
    builds.run(server, { pipeline = "file" })
    server:stop()
  end)

  it("HistoryRetentionDays is how long events of builds stay", function()
    local server = Server.start { config = { BuildQueue = { HistoryRetentionDays = 10 } }, scripts = PIPELINES }
    local old, young = builds.submit(server, { pipeline = "file" }), builds.submit(server, { pipeline = "file" })
    builds.await(server, old, "success")
    builds.await(server, young, "success")
    local function events(id)
      return tonumber(server:sql(("select count(*) from build_events where build_id = '%s'"):format(id)))
    end
    local kept = { events(old), events(young) }
    local function age(id, days)
      server:sql(("update build_events set at = now() - interval '%d days' where build_id = '%s'"):format(days, id))
    end
    age(old, 11)
    age(young, 9)
    server:stop()
    server:launch() -- its janitor begins with a round
    server:wait_for(function() return events(old) == 0 end, 20, "old events to go")
    assert.equal(kept[2], events(young))
    server:stop()
    server.config.BuildQueue.HistoryRetentionDays = 12
    server:write_config()
    age(young, 11)
    -- More than one batch: they all go in one round.
    server:sql(("insert into build_events (build_id, seq, at, type, attempt, round) "
      .. "select '%s', n, now() - interval '13 days', 'x', 1, 0 from generate_series(9000, 21000) as n"):format(young))
    server:launch()
    server:wait_for(function() return events(young) == kept[2] end, 20, "the oldest events to go")
    server:stop()
  end)
end)

describe("limits of a build's commands", function()
  -- Each tries to go beyond the limit and says how far it came.
  local function run(queue)
    queue.MaxRetryAttempts = 0
    local server = Server.start { config = { BuildQueue = queue }, scripts = { ["pipelines/greedy.lua"] = [[
      return { run = function(build)
        local function try(name, program)
          local done = build:exec { argv = { "sh", "-c", program }, check = false, capture = true }
          build:log(name .. "=" .. (done.output:match "(%S+)%s*$" or "nothing"))
        end
        try("memory",
          [=[lua5.4 -e 'local ok, s = pcall(string.rep, "x", 400 << 20) print(ok and #s >> 20 or "refused")']=])
        try("files", [=[lua5.4 -e 'local t = {} repeat t[#t + 1] = io.open "/dev/null" until #t == 300 or
          not io.open "/dev/null" print(#t)']=])
        try("size", "head -c 3145728 /dev/zero > big; stat -c %s big")
        try("processes", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do "
          .. "tail -f /dev/null >/dev/null 2>&1 & done; echo started")
      end }
    ]] } }
    local log = builds.log(server, builds.run(server, { pipeline = "greedy" }).id)
    server:stop()
    return function(name) return log:match(name .. "=(%S+)") end
  end

  it("hold when they are set", function()
    local got = run { ChildAddressSpaceMegabytes = 300, ChildMaxProcesses = 12, ChildOpenFiles = 100,
      ChildFileSizeMegabytes = 1 }
    assert.equal("refused", got "memory")
    assert.equal("nothing", got "processes") -- the shell gives up
    assert.equal("1048576", got "size")
    assert.truthy(tonumber(got "files") < 100, got "files")
  end)

  it("are none at 0", function()
    local got = run { ChildAddressSpaceMegabytes = 0, ChildMaxProcesses = 0, ChildOpenFiles = 0,
      ChildFileSizeMegabytes = 0 }
    assert.equal("400", got "memory")
    assert.equal("started", got "processes")
    assert.equal("3145728", got "size")
    assert.equal("300", got "files")
  end)
end)

describe("limits of HTTP", function()
  -- A connection that says `bytes` from an address of its own; `answer` is what has come, `closed` when.
  local function open(server, bytes, from)
    local connection = socket.tcp()
    if from then assert(connection:bind(from, 0)) end
    assert(connection:connect("127.0.0.1", server.port))
    connection:settimeout(0)
    assert(connection:send(bytes or ""))
    local self = { answer = "", began = uv.hrtime() }
    function self.take()
      local whole, why, part = connection:receive "*a"
      self.answer = self.answer .. (whole or part or "")
      if not self.closed and (whole or why == "closed") then self.closed = (uv.hrtime() - self.began) / 1e9 end
      return self
    end
    function self.close() connection:close() end
    return self
  end

  local function request(server, more)
    return ("GET /healthz HTTP/1.1\r\nHost: %s\r\n%s"):format(server.address, more)
  end

  local function answers(server, from)
    local c = open(server, request(server, "Connection: close\r\n\r\n"), from)
    server:wait_for(function() return c.take().closed end, 10, "an answer")
    c.close()
    return Server.statuses(c.answer)[1]
  end

  it("MaxConnections and MaxConnectionsPerPeer turn away who comes beyond them", function()
    for _, row in ipairs { { { MaxConnections = 3 }, 503 }, { { MaxConnectionsPerPeer = 3 }, 200 } } do
      local server = Server.start { config = { BuildQueue = row[1] } }
      server:wait_for(function()
        return server:get("/metrics").body:find("\nbuildq_http_connections 1\n", 1, true)
      end, 10, "no connection but ours")
      local held = {}
      for i = 1, 3 do held[i] = open(server, "GET ") end
      server:wait_for(function() return answers(server) == 503 end, 10, "the limit")
      assert.equal(row[2], answers(server, "127.0.0.2")) -- another peer
      held[1].close()
      server:wait_for(function() return answers(server) == 200 end, 10, "room again")
      held[2].close()
      held[3].close()
      server:stop()
    end
  end)

  it("MaxBodyKilobytes bounds a request's body", function()
    for kilobytes, status in pairs { [1] = 413, [2] = 400 } do
      local server = Server.start { config = { BuildQueue = { MaxBodyKilobytes = kilobytes } } }
      assert.equal(status, server:post("/builds", { customerId = ("x"):rep(1500) }).status)
      assert.equal(400, server:post("/builds", {}).status)
      server:stop()
    end
  end)

  it("RequestHeadSeconds, RequestBodySeconds and IdleSeconds end who is slow, each at its own time", function()
    local server = Server.start {
      config = { BuildQueue = { RequestHeadSeconds = 1, RequestBodySeconds = 3, IdleSeconds = 2 } } }
    local head = open(server, "GET /healthz HTT")
    local body = open(server, "POST /builds HTTP/1.1\r\nHost: " .. server.address
      .. "\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
    local idle = open(server, request(server, "\r\n"))
    server:wait_for(function()
      for _, c in ipairs { head, body, idle } do c.take() end
      return head.closed and body.closed and idle.closed
    end, 20)
    assert.same({ 408 }, Server.statuses(head.answer))
    assert.same({ 408 }, Server.statuses(body.answer))
    assert.same({ 200 }, Server.statuses(idle.answer))
    for seconds, c in pairs { head, idle, body } do
      assert.truthy(c.closed >= seconds - 0.1, ("%d s: ended after %.2f s"):format(seconds, c.closed))
      assert.truthy(c.closed < 9, ("%d s: ended after %.2f s"):format(seconds, c.closed)) -- the defaults: 10 and more
      c.close()
    end
    server:stop()
  end)
end)
