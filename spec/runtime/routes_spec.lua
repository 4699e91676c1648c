-- The shipped routes, in the real runtime on a scratch database.
local test = require "buildq.test"

local NOBODY <const> = "01890000-0000-7000-8000-000000000001"
local OWN <const> = [[
return { run = function(build)
  local made = build:exec { argv = { "make" }, check = false }
  if made.code > 0 then build:fail("make failed", { retry = false }) end
  require("buildq").fs.write("a.tar.zst", "packed")
  build:artifact("a.tar.zst", { kind = "archive" })
end }]]

before_each(function()
  test.database()
  test.write("pipelines/own.lua", OWN)
  test.exec:on("make", 0)
end)

local function order(fields)
  local all = {
    customerId = "c", customerName = "C", customerEmail = "c@d.example", configurationName = "default",
    pipeline = "own",
    manifest = { tier = "t", architecture = "a", cloudTargets = { { provider = "p" } } },
  }
  for name, value in pairs(fields or {}) do all[name] = value end
  return all
end

local function enqueue() return test.post("/builds", order()).json.jobId end

local function builds() return test.sql("select count(*) as n from build_queue")[1].n end

-- A build that is pending, running, or over.
local function pending()
  test.post("/queue/pause", { reason = "a test" })
  finally(function() test.post "/queue/resume" end)
  return enqueue()
end

local function running()
  test.exec:on("make", { hang = true })
  local id = enqueue()
  test.clock.advance(0)
  assert.equal("building", test.get("/builds/" .. id).json.status)
  return id
end

local function over()
  local id = enqueue()
  test.settle(id)
  return id
end

describe("POST /builds", function()
  it("answers 202 with the job's id and place", function()
    local response = test.post("/builds", order(), { ["X-Request-Id"] = "r-1" })
    assert.equal(202, response.status)
    local id = response.json.jobId
    assert.equal("/builds/" .. id, response.headers.location)
    assert.equal("Build queued successfully", response.json.message)
    assert.equal("r-1", response.headers["x-request-id"])
  end)

  it("names the warnings", function()
    local manifest = order().manifest
    manifest.tags, manifest.modules = { "x" }, { "m" }
    assert.equal("$.manifest.modules", test.post("/builds", order { manifest = manifest }).json.warnings[1].path)
  end)

  it("refuses bad bodies before anything is written", function()
    for _, body in ipairs { "", "{", "[]", "null", "5", "{}" } do
      local response = test.request("POST", "/builds", body, { ["content-type"] = "application/json" })
      assert.equal(400, response.status, body)
      assert.equal("application/problem+json", response.headers["content-type"])
    end
    assert.equal(422, test.post("/builds", order { pipeline = "nobody" }).status)
    assert.equal(0, builds())
  end)

  it("gives the first answer again for its key, and 422 for another body", function()
    local headers = { ["Idempotency-Key"] = "k1" }
    local first = test.post("/builds", order(), headers)
    local again = test.post("/builds", order(), headers)
    assert.equal(202, again.status)
    assert.same(first.json, again.json)
    assert.equal(first.headers.location, again.headers.location)
    assert.equal(1, builds())
    assert.equal(422, test.post("/builds", order { tier = "t", customerName = "D" }, headers).status)
    assert.equal(400, test.post("/builds", order(), { ["Idempotency-Key"] = ("k"):rep(256) }).status)
  end)

  it("asks for the first answer before it checks a request again", function()
    local headers = { ["Idempotency-Key"] = "k2" }
    test.manifest("order.json", order().manifest)
    local body = order { manifestPath = "order.json" }
    body.manifest = nil
    local first = test.post("/builds", body, headers)
    assert.equal(202, first.status, first.body)
    test.manifest("order.json", "{")
    assert.equal(first.json.jobId, test.post("/builds", body, headers).json.jobId)
    assert.equal(400, test.post("/builds", body).status)
  end)
end)

describe("GET /builds", function()
  it("filters by status, customer and metadata", function()
    test.settle(test.post("/builds", order { metadata = { team = "web", n = 3 } }).json.jobId)
    test.settle(test.post("/builds", order { customerId = "d", metadata = { team = "web" } }).json.jobId)
    local function count(query) return #test.get("/builds?" .. query).json.builds end
    assert.equal(2, count "status=success")
    assert.equal(0, count "status=failed")
    assert.equal(1, count "customerId=c")
    assert.equal(2, count "metadata.team=web")
    assert.equal(1, count "metadata=%7B%22n%22%3A3%7D")
    assert.equal(1, count "limit=1")
  end)

  it("refuses filters that mean nothing", function()
    for _, query in ipairs { "status=x", "limit=0", "metadata=%5B%5D", "cursor=x" } do
      assert.equal(400, test.get("/builds?" .. query).status, query)
    end
  end)
end)

describe("one build", function()
  it("is shown, or not found", function()
    local id = over()
    local response = test.get("/builds/" .. id)
    assert.equal(id, response.json.id)
    assert.equal("application/json", response.headers["content-type"])
    assert.equal(404, test.get("/builds/" .. NOBODY).status)
    assert.equal(404, test.get("/builds/x").status)
  end)

  it("changes its priority while it is pending", function()
    local id = pending()
    local changed = test.request("PATCH", "/builds/" .. id, { Priority = "critical" })
    assert.equal(200, changed.status)
    assert.equal(3, changed.json.priority)
    assert.equal(400, test.request("PATCH", "/builds/" .. id, {}).status)
    test.post("/builds/" .. id .. "/cancel")
    assert.equal(409, test.request("PATCH", "/builds/" .. id, { priority = 1 }).status)
  end)

  it("is cancelled: 200 when it was pending, 409 when it has ended", function()
    local id = pending()
    assert.equal(200, test.post("/builds/" .. id .. "/cancel").status)
    assert.equal(409, test.post("/builds/" .. id .. "/cancel").status)
    assert.equal(404, test.post("/builds/" .. NOBODY .. "/cancel").status)
  end)

  it("is cancelled: 202 when it runs, and the reason is kept", function()
    local id = running()
    assert.equal(202, test.post("/builds/" .. id .. "/cancel", { reason = "a mistake" }).status)
    local build = test.settle(id)
    assert.equal("cancelled", build.status)
    assert.matches("a mistake", build.errorMessage, 1, true)
  end)

  it("is retried when it has ended", function()
    test.exec:on("make", 1)
    local id = over()
    assert.equal("failed", test.get("/builds/" .. id).json.status)
    test.exec:on("make", 0)
    assert.equal(202, test.post("/builds/" .. id .. "/retry").status)
    assert.equal("success", test.settle(id).status)
    local waits = pending()
    assert.equal(409, test.post("/builds/" .. waits .. "/retry").status)
  end)

  it("is retried with many others", function()
    test.exec:on("make", 1)
    for _ = 1, 3 do over() end
    local body = { status = "failed", since = "2026-01-31T12:00:00Z" }
    assert.equal(3, test.post("/builds/retry", body).json.count)
    for _, bad in ipairs {
      {}, { status = "success" }, { status = "failed", since = "now" }, { status = "failed", limit = 1.5 },
    } do
      assert.equal(400, test.post("/builds/retry", bad).status)
    end
  end)
end)

describe("a log", function()
  it("is that of the last attempt, or of the one asked for", function()
    test.exec:on("make", "compiled\n")
    local path = "/builds/" .. over() .. "/log"
    local whole = test.get(path).body
    assert.matches("out| compiled", whole, 1, true)
    assert.equal(whole, test.get(path .. "?attempt=1").body)
    assert.equal(whole:sub(11), test.get(path .. "?offset=10").body)
    assert.equal(whole, test.get(path .. "?follow=1").body)
  end)

  it("is empty before the first attempt, and absent for one that never was", function()
    local path = "/builds/" .. pending() .. "/log"
    assert.equal("", test.get(path).body)
    assert.equal(404, test.get(path .. "?attempt=3").status)
    assert.equal(400, test.get(path .. "?offset=-1").status)
    assert.equal(404, test.get("/builds/" .. NOBODY .. "/log").status)
  end)
end)

describe("events", function()
  it("of a build go on after the last one seen", function()
    local path = "/builds/" .. over() .. "/events"
    local all = test.get(path).body
    assert.matches("id: 1\n", all, 1, true)
    local rest = test.get(path, { ["Last-Event-ID"] = "1" }).body
    assert.is_nil(rest:find("id: 1\n", 1, true))
    assert.matches("id: 2\n", rest, 1, true)
    assert.equal(400, test.get(path, { ["Last-Event-ID"] = "x" }).status)
  end)

  it("of a customer need the customer", function()
    assert.equal(400, test.get("/events").status)
  end)
end)

describe("artifacts", function()
  it("are listed with their addresses, and handed out from the committed attempt only", function()
    local id = over()
    local listed = test.get("/builds/" .. id .. "/artifacts").json.artifacts
    local place = "/downloads/" .. id .. "/a.tar.zst"
    local found
    for _, artifact in ipairs(listed) do found = found or artifact.url == place end
    assert.is_true(found)
    local file = test.get(place)
    assert.equal("packed", file.body)
    assert.equal("application/zstd", file.headers["content-type"])
    assert.equal(404, test.get("/downloads/" .. id .. "/b").status)
    assert.is_true(test.get("/downloads/" .. id .. "/..%2Fa.tar.zst").status >= 400)
    assert.matches('"artifacts":[]', test.get("/builds/" .. pending() .. "/artifacts").body, 1, true)
  end)
end)

describe("the queue", function()
  it("is paused with a reason only, and resumed without a body", function()
    assert.equal(200, test.post("/queue/pause", { reason = "upgrade" }).status)
    local control = test.get("/queue").json
    assert.is_true(control.paused)
    assert.equal("upgrade", control.reason)
    assert.equal(200, test.request("POST", "/queue/resume", "", { ["content-type"] = "application/json" }).status)
    assert.is_false(test.get("/queue").json.paused)
    for _, body in ipairs { {}, { reason = "" }, { reason = ("x"):rep(251) } } do
      assert.equal(400, test.post("/queue/pause", body).status)
    end
  end)

  it("shows statistics", function()
    pending()
    test.clock.advance "5s" -- they are at most 2 s old
    assert.equal(1, test.get("/builds/statistics").json.pendingCount)
  end)
end)

describe("health", function()
  it("is told, and figures", function()
    assert.equal(200, test.get("/healthz").status)
    assert.equal(200, test.get("/readyz").status)
    assert.matches("\nbuildq_[%w_]+ [%d.]+\n", test.get("/metrics").body)
  end)
end)
