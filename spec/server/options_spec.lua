-- Options of the old service that other specs don't turn the other way.
local uv = require "luv"
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
