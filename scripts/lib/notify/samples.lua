-- Builds as events have them, made up: what templates are tried with before they go live, and previews show.

local samples = {}

samples.events = { "queued", "started", "retrying", "completed", "failed", "timedout", "cancelled" }
samples.clouds = { "aws", "azure", "gcp", "on-premises", "other" }

local ENDED <const> = { completed = "success", failed = "failed", timedout = "timedout", cancelled = "cancelled" }
local ERRORS <const> = {
  retrying = "Cloning repositories: git: exit code 128 after 2.4 s: Could not resolve host: git.acme.example",
  failed = "Building for target platforms: make: exit code 2 after 41.3 s: src/tiles.c:118: error: unknown type name",
  timedout = "The build took longer than 60 min.",
  cancelled = "No longer needed.",
}
local HASH <const> = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

local function log_tail()
  local lines = {}
  for n = 1, 18 do lines[n] = ("cc -O2 -c src/part%02d.c -o build/part%02d.o"):format(n, n) end
  lines[19] = "src/tiles.c:118:3: error: unknown type name 'tile_ref' <in expansion of macro & \"TILE\">"
  lines[20] = "make: *** [Makefile:42: build/tiles.o] Error 1"
  return lines
end

local function artifacts()
  return {
    { name = "honua-server-linux-x64.tar.zst", kind = "archive", size = 48213997, sha256 = HASH },
    { name = "SHA256SUMS", kind = "checksums", size = 192, sha256 = HASH },
    { name = "manifest.json", kind = "manifest", size = 2048, sha256 = HASH },
  }
end

--- One sample. What the cloud "other" gets has nothing that a build may lack.
---@param event string one of samples.events
---@param cloud? string one of samples.clouds, "aws"
---@return NotificationEvent
function samples.make(event, cloud)
  cloud = cloud or "aws"
  local bare = cloud == "other"
  local has_started, has_ended = event ~= "queued", ENDED[event] ~= nil
  local reason = not bare and ERRORS[event] or nil
  local build = {
    id = "0193a5c2-7b1e-7c44-9d3a-5e6f7a8b9c0d", status = ENDED[event] or has_started and "building" or "pending",
    configurationName = "Köln tiles – production", tier = "enterprise", architecture = "linux-x64",
    cloudProvider = cloud, priority = 2, attempt = has_started and 1 or 0, retryCount = 0, maxRetries = 3,
    pipeline = "honua-server", customerId = "acme", customerName = "Acme Geo GmbH",
    customerEmail = "ops@acme.example", metadata = {},
    enqueuedAt = "2026-01-31T12:00:00.000000Z", errorMessage = reason,
    startedAt = has_started and "2026-01-31T12:01:05.000000Z" or nil,
    completedAt = has_ended and "2026-01-31T12:13:47.000000Z" or nil,
    buildDurationSeconds = has_ended and not bare and 762.4 or nil,
    imageUrl = event == "completed" and not bare and "registry.acme.example/honua/server:4.2.0" or nil,
    artifacts = event == "completed" and not bare and artifacts() or {},
    expiresAt = event == "completed" and not bare and "2026-03-02T12:13:47.000000Z" or nil,
    logTail = event == "failed" and not bare and log_tail() or {},
  }
  return {
    event = event, round = 1, attempt = event == "retrying" and 1 or 0, createdAt = "2026-01-31T12:13:47.000000Z",
    data = { error = reason, nextAttemptAt = event == "retrying" and not bare and "2026-01-31T12:18:47Z" or nil },
    build = build, customer = { id = "acme", name = build.customerName, email = build.customerEmail },
  }
end

--- Each event with each cloud.
---@return NotificationEvent[]
function samples.all()
  local list = {}
  for _, event in ipairs(samples.events) do
    for _, cloud in ipairs(samples.clouds) do list[#list + 1] = samples.make(event, cloud) end
  end
  return list
end

return samples
