local fake = require "spec.support.fake_buildq"

local ID <const> = "01890000-0000-7000-8000-000000000001"
local buildq

-- The handler of "METHOD /path" among all that ship.
local function handler(route)
  for _, name in ipairs { "builds", "actions", "log", "events", "artifacts", "queue", "health" } do
    for _, entry in ipairs(dofile("scripts/routes/" .. name .. ".lua")) do
      if entry.method .. " " .. entry.path == route then return entry.handle end
    end
  end
  error("no route " .. route)
end

local function call(route, request)
  request = request or {}
  request.params = request.params or { id = ID }
  request.query = request.query or {}
  request.headers = request.headers or {}
  request.id = "r-1"
  if type(request.body) == "table" then request.body = fake.encode(request.body) end
  request.body = request.body or ""
  function request.json(self) return fake.decode(self.body) end
  return handler(route)(request)
end

local NOT_FOUND <const> = { nil, { code = "not_found", message = "There is no such build." } }
local CONFLICT <const> = { nil, { code = "conflict", message = "The build has ended." } }

before_each(function()
  buildq = fake.install(fake.new())
  buildq.answers.pipelines = { { "honua-server", "own" } }
  buildq.answers.enqueue = function(fields) return { id = fields.id, answer = fields.answer, replayed = false } end
  buildq.answers.estimate = {}
  buildq.answers.get = { { id = ID, attempt = 2, status = "building" } }
  buildq.answers.artifacts = { { attempt = 2, artifacts = { { name = "a.tar.zst", size = 5, sha256 = "f00" } } } }
end)

after_each(fake.remove)

local function order()
  return {
    customerId = "c", customerName = "C", customerEmail = "c@d", configurationName = "default", pipeline = "own",
    manifest = { tier = "t", architecture = "a", cloudTargets = { { provider = "p" } } },
  }
end

describe("POST /builds", function()
  it("answers 202 with the job's id and place", function()
    local response = call("POST /builds", { body = order() })
    assert.equal(202, response.status)
    assert.equal("/builds/" .. ID, response.headers.Location)
    assert.same({ jobId = ID, message = "Build queued successfully" }, response.json)
    assert.equal("r-1", buildq.calls.enqueue[1].requestId)
    assert.is_nil(buildq.calls.enqueue[1].idempotency)
  end)

  it("says what the build should take", function()
    buildq.answers.estimate = { { seconds = 60 } }
    assert.equal(60, call("POST /builds", { body = order() }).json.estimate.seconds)
    assert.equal("own", buildq.calls.estimate[1].pipeline)
  end)

  it("names the warnings", function()
    local body = order()
    body.manifest.tags, body.manifest.modules = { "x" }, { "m" }
    assert.equal("$.manifest.modules", call("POST /builds", { body = body }).json.warnings[1].path)
  end)

  it("refuses bad bodies before anything is written", function()
    for _, body in ipairs { "", "{", "[]", "null", "5", "{}" } do
      local response = call("POST /builds", { body = body })
      assert.equal(400, response.status, body)
      assert.equal("application/problem+json", response.headers["Content-Type"])
    end
    assert.is_nil(buildq.calls.enqueue)
  end)

  it("gives the first answer again for its key, and 422 for another body", function()
    local headers = { ["idempotency-key"] = "k" }
    buildq.answers.replay = {}
    buildq.answers.enqueue = { { id = "old", answer = { jobId = "old" }, replayed = true } }
    local response = call("POST /builds", { body = order(), headers = headers })
    assert.equal(202, response.status)
    assert.equal("old", response.json.jobId)
    assert.equal("/builds/old", response.headers.Location)
    assert.equal("k", buildq.calls.enqueue[1].idempotency.key)
    buildq.answers.enqueue = CONFLICT -- another request with the key came in between
    assert.equal(422, call("POST /builds", { body = order(), headers = headers }).status)
    assert.equal(400, call("POST /builds", { body = order(), headers = { ["idempotency-key"] = "" } }).status)
  end)

  it("asks for the first answer before it checks a request again", function()
    local headers = { ["idempotency-key"] = "k" }
    buildq.answers.replay = { { id = "old", answer = { jobId = "old" }, replayed = true } }
    local response = call("POST /builds", { body = '{"manifestPath": "gone.json"}', headers = headers })
    assert.equal(202, response.status)
    assert.equal("old", response.json.jobId)
    assert.is_nil(buildq.calls.enqueue)
    buildq.answers.replay = CONFLICT
    assert.equal(422, call("POST /builds", { body = order(), headers = headers }).status)
  end)
end)

describe("GET /builds", function()
  it("passes its filters on", function()
    buildq.answers.list = { { builds = {}, nextCursor = fake.null } }
    local query = { status = "failed", customerId = "c", limit = "5", ["metadata.team"] = "web", metadata = '{"n":3}' }
    assert.equal(200, call("GET /builds", { query = query }).status)
    assert.same({ status = "failed", customerId = "c", limit = 5, metadata = { team = "web", n = 3 } },
      buildq.calls.list[1])
  end)

  it("refuses filters that mean nothing", function()
    for name, value in pairs { status = "x", limit = "0", metadata = "[]" } do
      assert.equal(400, call("GET /builds", { query = { [name] = value } }).status, name)
    end
  end)
end)

describe("one build", function()
  it("is shown as the database wrote it", function()
    buildq.answers.get_json = { '{"id":1}' }
    local response = call("GET /builds/{id}")
    assert.equal('{"id":1}', response.body)
    assert.equal("application/json", response.headers["Content-Type"])
    buildq.answers.get_json = NOT_FOUND
    assert.equal(404, call("GET /builds/{id}").status)
  end)

  it("changes its priority", function()
    buildq.answers.set_priority = { { id = ID, priority = 3 } }
    assert.equal(200, call("PATCH /builds/{id}", { body = { Priority = "critical" } }).status)
    assert.same({ ID, 3 }, buildq.calls.set_priority)
    assert.equal(400, call("PATCH /builds/{id}", { body = "{}" }).status)
    buildq.answers.set_priority = CONFLICT
    assert.equal(409, call("PATCH /builds/{id}", { body = { priority = 1 } }).status)
  end)

  it("is cancelled: 200 when it was pending, 202 when it runs, 409 when it has ended", function()
    buildq.answers.cancel = { { id = ID, status = "cancelled" } }
    assert.equal(200, call("POST /builds/{id}/cancel").status)
    buildq.answers.cancel = { { id = ID, status = "building" } }
    assert.equal(202, call("POST /builds/{id}/cancel", { body = { reason = "a mistake" } }).status)
    assert.equal("a mistake", buildq.calls.cancel[2])
    buildq.answers.cancel = CONFLICT
    assert.equal(409, call("POST /builds/{id}/cancel").status)
    buildq.answers.cancel = NOT_FOUND
    assert.equal(404, call("POST /builds/{id}/cancel").status)
  end)

  it("is retried when it has ended", function()
    buildq.answers.retry = { { id = ID, status = "pending" } }
    assert.equal(202, call("POST /builds/{id}/retry").status)
    buildq.answers.retry = CONFLICT
    assert.equal(409, call("POST /builds/{id}/retry").status)
  end)

  it("is retried with many others", function()
    buildq.answers.bulk_retry = { { count = 3 } }
    local body = { status = "failed", since = "2026-01-31T12:00:00Z" }
    assert.equal(3, call("POST /builds/retry", { body = body }).json.count)
    assert.same({ status = "failed", since = "2026-01-31T12:00:00Z", limit = 1000 }, buildq.calls.bulk_retry[1])
    for _, bad in ipairs {
      "{}", { status = "success" }, { status = "failed", since = "now" }, { status = "failed", limit = 1.5 },
    } do
      assert.equal(400, call("POST /builds/retry", { body = bad }).status)
    end
  end)
end)

describe("a log", function()
  it("is that of the last attempt, or of the one asked for", function()
    local response = call("GET /builds/{id}/log", { query = { follow = "1" } })
    assert.equal("log_stream", response.kind)
    assert.equal(2, response.options.attempt)
    assert.is_true(response.options.follow)
    response = call("GET /builds/{id}/log", { query = { attempt = "1", offset = "100" } })
    assert.same({ 1, 100, false }, { response.options.attempt, response.options.offset, response.options.follow })
  end)

  it("is empty before the first attempt, and absent for one that never was", function()
    assert.equal(404, call("GET /builds/{id}/log", { query = { attempt = "3" } }).status)
    assert.equal(400, call("GET /builds/{id}/log", { query = { offset = "-1" } }).status)
    buildq.answers.get = { { id = ID, attempt = 0 } }
    assert.equal("", call("GET /builds/{id}/log").body)
    buildq.answers.get = { { id = ID, attempt = 0, status = "cancelled" } }
    assert.equal("", call("GET /builds/{id}/log", { query = { follow = "1" } }).body)
    buildq.answers.get = { { id = ID, attempt = 0, status = "pending" } }
    for _, attempt in ipairs { false, "1" } do
      local response = call("GET /builds/{id}/log", { query = { follow = "1", attempt = attempt or nil } })
      assert.same({ "log_stream", 0, true }, { response.kind, response.options.attempt, response.options.follow })
      assert.equal("1", response.options.headers["X-Build-Attempt"])
    end
    assert.equal(404, call("GET /builds/{id}/log", { query = { follow = "1", attempt = "2" } }).status)
    buildq.answers.get = NOT_FOUND
    assert.equal(404, call("GET /builds/{id}/log").status)
  end)
end)

describe("events", function()
  it("of a build go on after the last one seen", function()
    local response = call("GET /builds/{id}/events", { headers = { ["last-event-id"] = "17" } })
    assert.same({ build = ID, after = 17 }, response.options)
    assert.equal(0, call("GET /builds/{id}/events").options.after)
    assert.equal(400, call("GET /builds/{id}/events", { headers = { ["last-event-id"] = "x" } }).status)
  end)

  it("of a customer need the customer", function()
    assert.same({ customer = "c" }, call("GET /events", { query = { customerid = "c" } }).options)
    assert.equal(400, call("GET /events").status)
  end)
end)

describe("artifacts", function()
  it("are listed with their addresses", function()
    local response = call("GET /builds/{id}/artifacts")
    assert.equal("/downloads/" .. ID .. "/a.tar.zst", response.json.artifacts[1].url)
    buildq.answers.artifacts = { { attempt = fake.null, artifacts = {} } }
    assert.matches('"artifacts":%[%]', fake.encode(call("GET /builds/{id}/artifacts").json))
  end)

  it("are handed out from the committed attempt, and only those that are listed", function()
    local response = call("GET /downloads/{id}/{name}", { params = { id = ID, name = "a.tar.zst" } })
    assert.equal("file", response.kind)
    assert.same({ 2, "f00", "application/zstd" },
      { response.options.attempt, response.options.etag, response.options.type })
    for _, name in ipairs { "b", "../a.tar.zst", "" } do
      assert.equal(404, call("GET /downloads/{id}/{name}", { params = { id = ID, name = name } }).status)
    end
  end)
end)

describe("the queue", function()
  it("is paused with a reason only", function()
    buildq.answers.pause = { { paused = true } }
    assert.equal(200, call("POST /queue/pause", { body = { reason = "upgrade" } }).status)
    assert.same({ "upgrade" }, buildq.calls.pause)
    for _, body in ipairs { "{}", { reason = "" }, { reason = ("x"):rep(251) } } do
      assert.equal(400, call("POST /queue/pause", { body = body }).status)
    end
  end)

  it("is resumed without a body", function()
    buildq.answers.resume = { { paused = false } }
    assert.equal(200, call("POST /queue/resume").status)
  end)

  it("shows statistics and its control", function()
    buildq.answers.statistics, buildq.answers.control = { { pendingCount = 1 } }, { { paused = false } }
    assert.equal(1, call("GET /builds/statistics").json.pendingCount)
    assert.is_false(call("GET /queue").json.paused)
  end)
end)

describe("health", function()
  it("is ready or says 503", function()
    buildq.answers.health = { { ready = true, status = "degraded", checks = {} } }
    assert.equal(200, call("GET /readyz").status)
    buildq.answers.health = { { ready = false, status = "failing", checks = {} } }
    assert.equal(503, call("GET /readyz").status)
    assert.equal(200, call("GET /healthz").status)
  end)

  it("can be turned off, metrics can't", function()
    buildq.config.EnableHealthChecks = false
    assert.equal(404, call("GET /readyz").status)
    assert.equal(404, call("GET /healthz").status)
    buildq.answers.metrics = { "buildq_x 1\n" }
    assert.equal("buildq_x 1\n", call("GET /metrics").body)
  end)
end)
