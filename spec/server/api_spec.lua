-- Every route of the API, with every status that it promises.
local json = require "dkjson"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

local UNKNOWN <const> = "00000000-0000-4000-8000-000000000000"
local server

setup(function()
  server = Server.start {
    config = { BuildQueue = { MaxConcurrentBuilds = 2, MaxBodyKilobytes = 64, MaxRetryAttempts = 0,
      GracefulShutdownTimeoutSeconds = 1,
      AllowedHosts = { "builds.example.org" } } },
    scripts = builds.scripts {
      ["pipelines/fails.lua"] = [[return { run = function(build) build:fail("as asked") end }]],
    },
    manifests = {
      ["form.json"] = { version = "1.0", name = "form", tier = "gold", architecture = "linux-arm64", pipeline = "quick",
        cloudTargets = { { provider = "aws" }, { provider = "azure" } } },
      ["dir/inner.json"] = { version = "1.0", name = "inner" },
      ["faulty.json"] = '{"version": "2.0", "modules": "all", "cloudTargets": [{}]}',
      ["broken.json"] = '{"version": ',
    },
  }
end)

teardown(function()
  if server then server:stop() end
end)

local function rows() return tonumber(server:sql "select count(*) from build_queue") end

local function paths_of(answer)
  local paths = {}
  for _, fault in ipairs(answer.json.errors or {}) do paths[fault.path] = fault.message end
  return paths
end

local function assert_problem(status, answer)
  assert.equal(status, answer.status, answer.body)
  assert.equal("application/problem+json", answer.headers["content-type"])
  assert.equal(status, answer.json.status)
  assert.truthy(#answer.json.title > 0, answer.body)
end

-- A build in a state, made by SQL where no request could: for lists, figures and refusals.
local COLUMNS <const> = { customer_id = "'sql'", customer_name = "'n'", customer_email = "'e@example.org'",
  configuration_name = "'c'", manifest_path = "'m'", tier = "'t'", architecture = "'a'", cloud_provider = "'p'" }
local function insert(fields)
  local names, values = {}, {}
  for _, part in ipairs { COLUMNS, fields } do
    for name, value in pairs(part) do
      if part == fields or not fields[name] then names[#names + 1], values[#values + 1] = name, value end
    end
  end
  return server:sql(("insert into build_queue (%s) values (%s) returning id"):format(table.concat(names, ", "),
    table.concat(values, ", ")))
end

describe("POST /builds", function()
  it("answers 202 with Location, jobId and message, and writes the row as it was asked for", function()
    local answer = server:post("/builds",
      builds.request { customerId = "first", priority = 2, metadata = { team = "a" } })
    assert.equal(202, answer.status)
    assert.equal("application/json", answer.headers["content-type"])
    assert.same({ jobId = answer.json.jobId, message = "Build queued successfully" }, answer.json)
    assert.equal("/builds/" .. answer.json.jobId, answer.headers.location)
    local row = server:rows(("select * from build_queue where id = '%s'"):format(answer.json.jobId))[1]
    assert.same({ "first", "Customer", "c1@example.org", "main", "pro", "linux-x64", "aws", 2, "quick" }, {
      row.customer_id, row.customer_name, row.customer_email, row.configuration_name, row.tier, row.architecture,
      row.cloud_provider, row.priority, row.pipeline })
    assert.truthy(row.manifest_path:find "^inline:%x+$", row.manifest_path)
    assert.equal("7", row.id:sub(15, 15)) -- a UUID of version 7
    builds.await(server, answer.json.jobId, "success")
  end)

  it("takes names in any case and ignores unknown ones", function()
    local answer = server:post("/builds", { CUSTOMERID = "upper", CustomerName = "n", customeremail = "u@example.org",
      ConfigurationName = "c", TIER = "pro", Architecture = "a", CLOUDPROVIDER = "p", PipeLine = "quick",
      Manifest = { Version = "1.0" }, Priority = "HIGH", Nonsense = { 1 } })
    assert.equal(202, answer.status, answer.body)
    local build = server:get("/builds/" .. answer.json.jobId).json
    assert.equal("upper", build.customerId)
    assert.equal(2, build.priority)
  end)

  it("takes priorities as numbers and words", function()
    for given, wanted in pairs { [0] = 0, [3] = 3, low = 0, normal = 1, High = 2, CRITICAL = 3, ["2"] = 2 } do
      assert.equal(wanted, server:get("/builds/" .. builds.submit(server, { priority = given })).json.priority, given)
    end
    assert.equal(1, server:get("/builds/" .. builds.submit(server)).json.priority)
  end)

  it("takes tier, architecture and pipeline from the manifest of ManifestDirectory, and its first cloud", function()
    local body = builds.request { manifestPath = "form.json" }
    body.tier, body.architecture, body.cloudProvider, body.pipeline = nil, nil, nil, nil
    local answer = server:post("/builds", body)
    assert.equal(202, answer.status, answer.body)
    local build = builds.await(server, answer.json.jobId, "success")
    assert.same({ "gold", "linux-arm64", "aws", "quick" },
      { build.tier, build.architecture, build.cloudProvider, build.pipeline })
    assert.equal("form.json",
      server:sql(("select manifest_path from build_queue where id = '%s'"):format(answer.json.jobId)))
    body.cloudProvider = "azure"
    assert.equal("azure", server:get("/builds/" .. server:post("/builds", body).json.jobId).json.cloudProvider)
  end)

  it("names in warnings what nothing acts on", function()
    local answer = server:post("/builds", builds.request {
      manifest = {
        version = "1.0", modules = { "core" }, databaseConnectors = { "PostgreSQL" }, colour = "red",
      },
    })
    assert.equal(202, answer.status)
    local seen = {}
    for _, warning in ipairs(answer.json.warnings) do
      seen[warning.path] = warning.message
    end
    for _, path in ipairs { "$.manifest.modules", "$.manifest.databaseConnectors", "$.manifest.colour" } do
      assert.truthy(seen[path] and #seen[path] > 10, path)
    end
  end)

  -- Nothing below may leave a row.
  local before
  before_each(function() before = rows() end)
  local function assert_refused(status, answer)
    assert_problem(status, answer)
    assert.equal(before, rows())
  end

  for _, name in ipairs { "customerId", "customerName", "customerEmail", "configurationName", "tier", "architecture",
    "cloudProvider" } do
    it("needs " .. name, function()
      local body = builds.request()
      body[name] = nil
      local answer = server:post("/builds", body)
      assert_refused(400, answer)
      assert.truthy(paths_of(answer)["$." .. name]:find "is required", answer.body)
    end)
  end

  it("needs a manifest or its path, and not both", function()
    local body = builds.request()
    body.manifest = nil
    local answer = server:post("/builds", body)
    assert_refused(400, answer)
    assert.truthy(paths_of(answer)["$.manifestPath"], answer.body)
    body.manifest, body.manifestPath = { version = "1.0" }, "form.json"
    assert_refused(400, server:post("/builds", body))
  end)

  it("names all faults at once", function()
    local answer = server:post("/builds", { customerEmail = "nobody", priority = 9, metadata = { 1 }, tier = 5,
      manifest = "x" })
    assert_refused(400, answer)
    local paths = paths_of(answer)
    for _, name in ipairs { "customerId", "customerName", "customerEmail", "configurationName", "priority", "metadata",
      "tier", "manifest" } do
      assert.truthy(paths["$." .. name], name .. " in " .. answer.body)
    end
  end)

  for name, length in pairs { customerId = 255, customerName = 255, configurationName = 255, tier = 50,
    architecture = 50, cloudProvider = 50 } do
    it(("takes %d characters of %s and not one more"):format(length, name), function()
      local longest = ("ü"):rep(length)
      local id = builds.submit(server, { [name] = longest })
      assert.equal(longest, server:get("/builds/" .. id).json[name])
      before = rows()
      local answer = server:post("/builds", builds.request { [name] = longest .. "x" })
      assert_refused(400, answer)
      assert.truthy(paths_of(answer)["$." .. name], answer.body)
    end)
  end

  it("takes 8192 bytes of metadata and not one more", function()
    local frame = #'{"k":""}'
    local id = builds.submit(server, { metadata = { k = ("m"):rep(8192 - frame) } })
    assert.equal(8192 - frame, #server:get("/builds/" .. id).json.metadata.k)
    before = rows()
    assert_refused(400, server:post("/builds", builds.request { metadata = { k = ("m"):rep(8193 - frame) } }))
  end)

  local function raw(text, type)
    return server:request("POST", "/builds", text, { ["content-type"] = type or "application/json" })
  end

  -- What stands in the request, and the path that the fault must name.
  local FAULTY <const> = {
    { "an address without @", { customerEmail = "nobody" }, "$.customerEmail" },
    { "two addresses", { customerEmail = "a@b.c,d@e.f" }, "$.customerEmail" },
    { "a number as id", { customerId = 17 }, "$.customerId" },
    { "blanks as a name", { customerName = "   " }, "$.customerName" },
    { "a line break in a name", { customerName = "a\nBcc: b" }, "$.customerName" },
    { "a priority over 3", { priority = 4 }, "$.priority" },
    { "a priority between two", { priority = 1.5 }, "$.priority" },
    { "an unknown priority", { priority = "urgent" }, "$.priority" },
    { "metadata that is a list", { metadata = { 1, 2 } }, "$.metadata" },
    { "metadata that is a text", { metadata = "a" }, "$.metadata" },
    { "a path upwards", { manifestPath = "../appsettings.json" }, "$.manifestPath" },
    { "a path upwards in the middle", { manifestPath = "dir/../../appsettings.json" }, "$.manifestPath" },
    { "an absolute path", { manifestPath = "/etc/passwd" }, "$.manifestPath" },
    { "a manifest that is not there", { manifestPath = "none.json" }, "$.manifestPath" },
    { "a directory as manifest", { manifestPath = "dir" }, "$.manifestPath" },
    { "a manifest that is no JSON", { manifestPath = "broken.json" }, "$.manifestPath" },
    { "an architecture that the manifest has not", { manifestPath = "form.json", tier = "gold" }, "$.architecture" },
    { "a cloud that the manifest has not",
      { manifestPath = "form.json", tier = "gold", architecture = "linux-arm64", cloudProvider = "gcp" },
      "$.cloudProvider" },
    { "an unknown version", { manifest = { version = "3.0" } }, "$.manifest.version" },
    { "commands in an inline manifest",
      { manifest = { version = "1.0", build = { system = "command", commands = { "true" } } } },
      "$.manifest.build.commands" },
    { "a local path in an inline manifest", { manifest = { version = "1.0", source = { path = "trees/x" } } },
      "$.manifest.source.path" },
    { "a file: URL in an inline manifest", { manifest = { version = "1.0", source = { repository = "file:///etc" } } },
      "$.manifest.source.repository" },
    { "an unknown build system", { manifest = { version = "1.0", build = { system = "ant" } } },
      "$.manifest.build.system" },
  }
  for _, row in ipairs(FAULTY) do
    it("refuses " .. row[1], function()
      local answer = server:post("/builds", builds.request(row[2]))
      assert_refused(400, answer)
      assert.truthy(paths_of(answer)[row[3]], answer.body)
    end)
  end

  it("names every fault of a manifest with its path", function()
    local answer = server:post("/builds", builds.request { manifestPath = "faulty.json" })
    assert_refused(400, answer)
    local paths = paths_of(answer)
    assert.truthy(paths["$.version"] and paths["$.modules"] and paths["$.cloudTargets[0].provider"], answer.body)
  end)

  it("does not follow a link out of ManifestDirectory", function()
    assert(require("luv").fs_symlink("/etc/hostname", server.directory .. "/manifests/link.json"))
    assert_refused(400, server:post("/builds", builds.request { manifestPath = "link.json" }))
    assert.equal(202, server:post("/builds", builds.request { manifestPath = "dir/inner.json" }).status)
  end)

  it("answers 422 to an unknown pipeline, and names those there are", function()
    for _, name in ipairs { "nope", "../routes/builds", "QUICK" } do
      local answer = server:post("/builds", builds.request { pipeline = name })
      assert_refused(422, answer)
      assert.truthy(answer.json.detail:find("honua-server", 1, true), answer.body)
    end
  end)

  for name, text in pairs {
    ["a cut document"] = '{"customerId": "a', ["a list"] = "[]", ["a text"] = '"x"', nothing = "", null = "null",
    ["two documents"] = "{}{}", ["bad UTF-8"] = '{"customerId": "\xff"}', NUL = '{"customerId": "a\\u0000"}',
    ["a raw NUL"] = '{"customerId": "a\0"}', ["a name with NUL"] = '{"a\\u0000b": 1}',
    ["a huge number"] = '{"priority": 1e999}',
  } do
    it("answers 400 to " .. name, function() assert_refused(400, raw(text)) end)
  end

  it("answers 413 to what is too large", function()
    assert_refused(413, raw(json.encode(builds.request { customerName = (" "):rep(70 * 1024) })))
  end)

  it("answers 415 to what is not called JSON", function()
    local text = json.encode(builds.request())
    for _, type in ipairs { "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json" } do
      assert_refused(415, raw(text, type))
    end
    assert.equal(202, raw(text, "application/json; charset=utf-8").status)
  end)

  it("answers 403 to a foreign Origin and Host, and takes AllowedHosts", function()
    local body = builds.request()
    assert_refused(403, server:post("/builds", body, { Origin = "https://evil.example" }))
    assert_refused(403, server:post("/builds", body, { Host = "evil.example" }))
    assert_refused(403, server:post("/builds", body, { Host = "builds.example.org.evil.example" }))
    assert.equal(202, server:post("/builds", body, { Origin = "http://" .. server.address }).status)
    assert.equal(202, server:post("/builds", body, { Host = "builds.example.org" }).status)
    assert.equal(202, server:post("/builds", body, { Host = "localhost:" .. server.port }).status)
  end)

  it("gives the same answer to a repeated Idempotency-Key, and 422 to another body", function()
    local body = builds.request { customerId = "idem" }
    local first = server:post("/builds", body, { ["Idempotency-Key"] = "key-1" })
    local second = server:post("/builds", body, { ["Idempotency-Key"] = "key-1" })
    assert.same({ 202, 202 }, { first.status, second.status })
    assert.equal(first.body, second.body)
    assert.equal(first.headers.location, second.headers.location)
    before = rows()
    body.customerId = "other"
    assert_refused(422, server:post("/builds", body, { ["Idempotency-Key"] = "key-1" }))
    assert_refused(400, server:post("/builds", body, { ["Idempotency-Key"] = "a b" }))
    -- Refused answers are not kept.
    assert_refused(400, server:post("/builds", {}, { ["Idempotency-Key"] = "key-2" }))
    assert.equal(202, server:post("/builds", body, { ["Idempotency-Key"] = "key-2" }).status)
  end)

  it("gives that answer also when the manifest has gone meanwhile", function()
    server:write("manifests", { ["passing.json"] = { version = "1.0", name = "spec" } })
    local body = builds.request { manifestPath = "passing.json" }
    local first = server:post("/builds", body, { ["Idempotency-Key"] = "key-3" })
    assert.equal(202, first.status)
    assert(os.remove(server.directory .. "/manifests/passing.json"))
    assert.equal(first.body, server:post("/builds", body, { ["Idempotency-Key"] = "key-3" }).body)
    before = rows()
    assert_refused(400, server:post("/builds", body))
  end)
end)

describe("GET /builds/{id}", function()
  it("has every field, null where there is nothing yet", function()
    server:post("/queue/pause", { reason = "spec" })
    local metadata = { n = 9007199254740993, list = json.decode "[]", deep = { a = 1 } }
    local id = builds.submit(server, { metadata = metadata })
    local answer = server:get("/builds/" .. id)
    assert.equal(200, answer.status)
    for _, name in ipairs { "id", "status", "progressPercent", "currentStep", "outputPath", "imageUrl", "downloadUrl",
      "errorMessage", "enqueuedAt", "startedAt", "completedAt", "buildDurationSeconds", "retryCount", "priority",
      "attempt", "pipeline", "generation", "nextAttemptAt", "metadata" } do
      assert.truthy(answer.body:find(('"%s"'):format(name), 1, true), name)
    end
    assert.same({ id, "pending", 0, json.null, 0, 0 }, { answer.json.id, answer.json.status,
      answer.json.progressPercent, answer.json.startedAt, answer.json.attempt, answer.json.retryCount })
    assert.truthy(answer.json.enqueuedAt:find "^%d+%-%d+%-%d+T%d+:%d+:%d+%.%d%d%d%d%d%dZ$", answer.json.enqueuedAt)
    -- What JSON can hold comes back as it went in.
    assert.truthy(answer.body:find "\"n\": ?9007199254740993", answer.body)
    assert.truthy(answer.body:find "\"list\": ?%[%]", answer.body)
    assert.equal(200, server:get("/builds/" .. id:upper()).status)
    server:post "/queue/resume"
    local build = builds.await(server, id, "success")
    assert.same({ 100, 1, 0, json.null },
      { build.progressPercent, build.attempt, build.retryCount, build.errorMessage })
    assert.truthy(build.startedAt >= build.enqueuedAt and build.completedAt >= build.startedAt)
    assert.truthy(build.buildDurationSeconds >= 0 and build.buildDurationSeconds < 30)
    assert.truthy(build.generation:find "^%x+$", build.generation)
  end)

  it("answers 404 to an unknown id and to what is none", function()
    for _, id in ipairs { UNKNOWN, "17", "x", UNKNOWN .. "0" } do assert_problem(404, server:get("/builds/" .. id)) end
  end)
end)

describe("GET /builds", function()
  local function page(query) return server:get("/builds" .. query) end

  setup(function()
    server:sql [[
      insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path, tier,
        architecture, cloud_provider, status, priority, enqueued_at, completed_at, metadata)
      select 'many', 'n', 'e@example.org', 'c', 'm', 't', 'a', 'p',
        case when n % 3 = 0 then 'failed' else 'cancelled' end, 1,
        timestamptz '2020-01-01' + (n / 10) * interval '1 second', timestamptz '2020-01-02',
        jsonb_build_object('team', case when n % 2 = 0 then 'web' else 'db' end, 'size', n)
      from generate_series(1, 120) n]]
  end)

  it("pages over 120 builds by the cursor: each once, newest first, also those of one moment", function()
    local seen, pages, cursor, last = {}, 0, "", nil
    repeat
      local answer = page("?customerId=many&limit=50" .. cursor)
      assert.equal(200, answer.status, answer.body)
      pages = pages + 1
      for _, build in ipairs(answer.json.builds) do
        assert.is_nil(seen[build.id])
        seen[build.id] = true
        assert.truthy(last == nil or build.enqueuedAt <= last)
        last = build.enqueuedAt
      end
      assert.equal(pages == 3 and 20 or 50, #answer.json.builds)
      cursor = answer.json.nextCursor ~= json.null and "&cursor=" .. answer.json.nextCursor or nil
    until not cursor
    assert.equal(3, pages)
  end)

  it("is not disturbed by what is enqueued between two pages", function()
    local first = page "?customerId=many&limit=60"
    insert { customer_id = "'many'", status = "'failed'", completed_at = "now()" }
    local second = page("?customerId=many&limit=60&cursor=" .. first.json.nextCursor)
    assert.equal(60, #second.json.builds)
    server:sql "delete from build_queue where customer_id = 'many' and enqueued_at > '2021-01-01'"
  end)

  it("filters by status, customer and metadata", function()
    assert.equal(40, #page("?customerId=many&status=failed&limit=500").json.builds)
    assert.equal(40, #page("?CUSTOMERID=many&STATUS=Failed&limit=500").json.builds)
    assert.equal(60, #page("?metadata.team=web&customerId=many&limit=500").json.builds)
    assert.equal(1, #page("?metadata=%7B%22team%22%3A%22web%22%2C%22size%22%3A4%7D&customerId=many").json.builds)
    assert.truthy(page("?customerId=nobody").body:find '"builds":%[%]')
  end)

  it("answers 400 to what it can't read", function()
    for _, query in ipairs { "?status=done", "?limit=0", "?limit=501", "?limit=x", "?cursor=x", "?cursor=1_2",
      "?metadata=%5B%5D", "?metadata=x", "?metadata.a%00=1", "?metadata.a=%FF", "?customerId=%FF",
      "?cursor=1764012345.1_" .. UNKNOWN .. "x" } do
      assert_problem(400, page(query))
    end
  end)
end)

describe("PATCH /builds/{id}", function()
  it("changes the priority of a pending build only", function()
    server:post("/queue/pause", { reason = "spec" })
    local id = builds.submit(server)
    local answer = server:patch("/builds/" .. id, { Priority = "critical" })
    assert.equal(200, answer.status)
    assert.equal(3, answer.json.priority)
    assert.equal("3", server:sql(("select priority from build_queue where id = '%s'"):format(id)))
    assert_problem(400, server:patch("/builds/" .. id, { priority = 7 }))
    assert_problem(400, server:patch("/builds/" .. id, {}))
    assert_problem(404, server:patch("/builds/" .. UNKNOWN, { priority = 1 }))
    server:post "/queue/resume"
    builds.await(server, id, "success")
    assert_problem(409, server:patch("/builds/" .. id, { priority = 1 }))
  end)
end)

describe("POST /builds/{id}/cancel", function()
  it("answers 200 for a pending one, 202 for a running one, 409 for an ended one", function()
    local running = builds.submit(server, { pipeline = "gate" })
    builds.await(server, running, "building")
    local answer = server:post(("/builds/%s/cancel"):format(running), { reason = "no longer wanted" })
    assert.equal(202, answer.status)
    local build = builds.await(server, running, "cancelled")
    assert.truthy(build.errorMessage:find "no longer wanted", build.errorMessage)
    assert_problem(409, server:post(("/builds/%s/cancel"):format(running)))

    server:post("/queue/pause", { reason = "spec" })
    local pending = builds.submit(server)
    answer = server:post(("/builds/%s/cancel"):format(pending))
    assert.same({ 200, "cancelled" }, { answer.status, answer.json.status })
    assert.equal("cancelled", server:get("/builds/" .. pending).json.status)
    server:post "/queue/resume"
    assert_problem(404, server:post(("/builds/%s/cancel"):format(UNKNOWN)))
  end)
end)

describe("POST /builds/{id}/retry", function()
  it("starts an ended build anew and answers 409 for any other", function()
    local id = builds.submit(server, { pipeline = "fails" })
    assert.equal("as asked", builds.await(server, id, "failed").errorMessage)
    local gate = builds.submit(server, { pipeline = "gate" })
    builds.await(server, gate, "building")
    assert_problem(409, server:post(("/builds/%s/retry"):format(gate)))
    assert.equal(202, server:post(("/builds/%s/retry"):format(id)).status)
    server:wait_for(function()
      local build = server:get("/builds/" .. id).json
      return build.status == "failed" and build.attempt == 2
    end, 20, "the second attempt")
    builds.open_gate(server, gate)
    builds.await(server, gate, "success")
    assert_problem(404, server:post(("/builds/%s/retry"):format(UNKNOWN)))
  end)

  it("in bulk takes those of a status, and says how many", function()
    local id = insert { customer_id = "'bulk'", status = "'timedout'", completed_at = "now()", pipeline = "'fails'" }
    local answer = server:post("/builds/retry", { status = "timedout", since = "2020-01-01T00:00:00Z" })
    assert.same({ 200, 1 }, { answer.status, answer.json.count })
    builds.await(server, id, "failed") -- its manifest is nowhere
    for _, body in ipairs { {}, { status = "success" }, { status = "failed", since = "yesterday" },
      { status = "failed", limit = 0 } } do
      assert_problem(400, server:post("/builds/retry", body))
    end
  end)
end)

describe("pause and resume", function()
  it("hold the queue with a reason that readyz and statistics show", function()
    assert_problem(400, server:post "/queue/pause")
    local answer = server:post("/queue/pause", { reason = "moving house" })
    assert.same({ 200, true, "moving house" }, { answer.status, answer.json.paused, answer.json.reason })
    local id = builds.submit(server)
    server:wait_for(function()
      local ready = server:get "/readyz"
      return ready.status == 200 and ready.json.status == "degraded" and ready.body:find("moving house", 1, true)
    end, 10, "the pause in /readyz")
    server:wait_for(function()
      local statistics = server:get("/builds/statistics").json
      return statistics.paused and statistics.pauseReason == "moving house"
    end, 5, "the pause in the statistics")
    assert.equal("pending", server:get("/builds/" .. id).json.status)
    assert.is_true(server:get("/queue").json.paused)
    assert.is_false(server:post("/queue/resume").json.paused)
    builds.await(server, id, "success")
  end)
end)

describe("GET /builds/statistics", function()
  it("counts what is there", function()
    server:wait_for(function()
      return server:sql "select count(*) from build_queue where status in ('pending', 'building')" == "0"
    end, 20, "an idle queue")
    server:sql "delete from build_queue"
    for _, row in ipairs {
      { "'success'", "now()", 10 }, { "'success'", "now()", 30 }, { "'failed'", "now()", 1 },
      { "'timedout'", "now()", 1 }, { "'cancelled'", "now()", 1 }, { "'success'", "now() - interval '30 hours'", 900 },
    } do
      insert { status = row[1], completed_at = row[2], enqueued_at = row[2] .. " - interval '1 minute'",
        build_duration_seconds = row[3] }
    end
    local gate = builds.submit(server, { pipeline = "gate", customerId = "active" })
    builds.await(server, gate, "building")
    local later = "now() + interval '1 day'"
    insert { status = "'pending'", enqueued_at = "timestamptz '2024-02-29 12:00:00+00'", run_after = later }
    insert { status = "'pending'", run_after = later }
    local statistics
    server:wait_for(function()
      local answer = server:get "/builds/statistics"
      assert.equal(200, answer.status)
      statistics = answer.json
      return statistics.pendingCount == 2
    end, 5, "the figures, which are two seconds old at most")
    assert.same({ 2, 1, 2, 2, 50 }, { statistics.pendingCount, statistics.buildingCount, statistics.completedToday,
      statistics.failedToday, statistics.successRate })
    assert.equal(20, statistics.averageBuildTimeSeconds)
    assert.truthy(statistics.oldestPendingBuild:find "^2024%-02%-29T12:00:00", statistics.oldestPendingBuild)
    assert.equal(1, #statistics.activeBuilds)
    assert.same({ gate, "active" }, { statistics.activeBuilds[1].id, statistics.activeBuilds[1].customerId })
    assert.truthy(statistics.asOf:find "^%d%d%d%d%-")
    builds.open_gate(server, gate)
    builds.await(server, gate, "success")
    server:sql "delete from build_queue where status = 'pending'"
  end)
end)

describe("artifacts, attempts and events", function()
  it("are lists, empty before there is anything", function()
    local id = builds.run(server, { pipeline = "fails" }, "failed").id
    assert.truthy(server:get(("/builds/%s/artifacts"):format(id)).body:find '"artifacts":%[%]')
    local attempts = server:get(("/builds/%s/attempts"):format(id)).json.attempts
    assert.equal(1, #attempts)
    assert.same({ 1, "failed", "as asked" }, { attempts[1].attempt, attempts[1].outcome, attempts[1].errorMessage })
    for _, what in ipairs { "artifacts", "attempts", "events", "log" } do
      assert_problem(404, server:get(("/builds/%s/%s"):format(UNKNOWN, what)))
      assert_problem(404, server:get(("/builds/nope/%s"):format(what)))
    end
    assert_problem(404, server:get(("/downloads/%s/a.tar.zst"):format(UNKNOWN)))
    assert_problem(404, server:get(("/downloads/%s/a.tar.zst"):format(id)))
    assert_problem(400, server:get "/events")
    for _, query in ipairs { "?offset=-1", "?offset=x", "?attempt=0", "?follow=maybe" } do
      assert_problem(400, server:get(("/builds/%s/log%s"):format(id, query)))
    end
    assert_problem(404, server:get(("/builds/%s/log?attempt=2"):format(id)))
  end)
end)

describe("health and metrics", function()
  it("say that all is well", function()
    assert.same({ status = "ok" }, server:get("/healthz").json)
    server:wait_for(function() return server:get("/readyz").json.status == "ok" end, 10, "ok")
    local ready = server:get("/readyz").json
    assert.is_true(ready.ready)
    local names = {}
    for _, check in ipairs(ready.checks) do names[check.name] = check.status end
    assert.same({ "ok", "ok", "ok" }, { names.database, names.scripts, names.disk })
    assert.truthy(ready.generation:find "^%x+$")
  end)

  it("count in Prometheus' text, each named and typed", function()
    builds.run(server)
    local answer = server:get "/metrics"
    assert.equal(200, answer.status)
    assert.truthy(answer.headers["content-type"]:find "^text/plain; version=0%.0%.4")
    for _, line in ipairs { "buildq_slots 2\n", "buildq_database_up 1\n", 'buildq_pending_builds{priority="0"} 0\n',
      'buildq_script_generation_info{generation="' } do
      assert.truthy(answer.body:find(line, 1, true), line .. " in " .. answer.body)
    end
    assert.truthy(answer.body:find 'buildq_builds_finished_total{status="success"} [1-9]')
    assert.truthy(answer.body:find 'buildq_build_duration_seconds_bucket{[^}]*le="%+Inf"} [1-9]')
    for line in answer.body:gmatch "[^\n]+" do
      local name = line:match "^([%l_]+)"
      if name then
        name = name:gsub("_bucket$", ""):gsub("_sum$", ""):gsub("_count$", "")
        assert.truthy(answer.body:find("# TYPE " .. name .. " ", 1, true), line)
      end
    end
    local help = answer.body:match "# HELP buildq_active_builds ([^\n]+)"
    assert.truthy(help:find "whole database", help)
  end)

  it("are turned off by EnableHealthChecks=false, but for the metrics", function()
    local off = Server.start { config = { BuildQueue = { EnableHealthChecks = false } } }
    assert_problem(404, off:get "/healthz")
    assert_problem(404, off:get "/readyz")
    assert.equal(200, off:get("/metrics").status)
    assert.equal(200, off:get("/builds/statistics").status)
    off:stop()
  end)
end)

describe("any request", function()
  it("has an id: the client's, or one that is made", function()
    for _, path in ipairs { "/healthz", "/nope", "/builds/" .. UNKNOWN, "/metrics" } do
      assert.equal("spec.id-1", server:get(path, { ["X-Request-Id"] = "spec.id-1" }).headers["x-request-id"], path)
      local made = server:get(path).headers["x-request-id"]
      assert.truthy(made and made:find "^%x+%-%x+%-7", path)
      assert.not_equal(made, server:get(path).headers["x-request-id"])
      -- What could not be a line of a log is not taken over.
      assert.not_equal("a b", server:get(path, { ["X-Request-Id"] = "a b" }).headers["x-request-id"])
    end
  end)

  it("that is refused has it in its problem document, wherever that came from", function()
    for _, path in ipairs { "/nope", "/builds/" .. UNKNOWN, "/builds?limit=0", "/builds/" .. UNKNOWN .. "/log" } do
      local answer = server:get(path, { ["X-Request-Id"] = "spec.id-2" })
      assert.truthy(answer.status >= 400)
      assert.equal("spec.id-2", answer.json.requestId, path)
    end
  end)

  it("is in the log under its id", function()
    assert.equal(400, server:request("POST", "/builds", "{}",
      { ["X-Request-Id"] = "spec.id-3", ["Content-Type"] = "application/json" }).status)
    server:wait_for(function()
      return server:log():find("info  request request=spec.id-3 method=POST path=/builds status=400", 1, true)
    end, 10)
  end)

  it("of another method gets 405 and the methods there are", function()
    for path, methods in pairs { ["/builds"] = { "GET", "POST" }, ["/builds/" .. UNKNOWN] = { "GET", "PATCH" },
      ["/builds/statistics"] = { "GET" }, ["/queue/pause"] = { "POST" }, ["/healthz"] = { "GET" } } do
      local answer = server:request("DELETE", path)
      assert_problem(405, answer)
      for _, method in ipairs(methods) do assert.truthy(answer.headers.allow:find(method), path) end
    end
  end)

  it("to nowhere gets 404, whatever its method", function()
    for _, method in ipairs { "GET", "POST", "DELETE" } do assert_problem(404, server:request(method, "/nope")) end
    assert_problem(404, server:get "/builds/")
    assert_problem(404, server:get "/Builds")
  end)
end)
