-- What the templates of a mail can print, made of a delivery. templates/README.md lists it.

local buildq = require "buildq"
local text = require "notify.text"

local view = {}

local null <const> = buildq.json.null
local cut <const>, one_line <const> = text.cut, text.one_line

local STATUS <const> = {
  queued = { word = "Queued", color = "#4a5563", background = "#eceff3" },
  started = { word = "Started", color = "#1d4f91", background = "#e3effc" },
  retrying = { word = "Trying again", color = "#7a5200", background = "#fdf1d3" },
  completed = { word = "Completed", color = "#17663a", background = "#ddf5e6" },
  failed = { word = "Failed", color = "#a3212b", background = "#fde5e6" },
  timedout = { word = "Timed out", color = "#7a5200", background = "#fdf1d3" },
  cancelled = { word = "Cancelled", color = "#4a5563", background = "#eceff3" },
}
local ENDS <const> = { completed = true, failed = true, timedout = true, cancelled = true }
local PRIORITIES <const> = { [0] = "low", "normal", "high", "critical" }
local CLOUDS <const> = {
  aws = { file = "aws", name = "AWS", where = "on AWS" },
  azure = { file = "azure", name = "Azure", where = "on Azure" },
  gcp = { file = "gcp", name = "Google Cloud", where = "on Google Cloud" },
}
local FIELDS <const> = {
  "id", "status", "configurationName", "tier", "architecture", "cloudProvider", "priority", "attempt", "retryCount",
  "maxRetries", "pipeline", "errorMessage", "enqueuedAt", "startedAt", "completedAt", "buildDurationSeconds",
  "imageUrl", "downloadUrl", "nextAttemptAt", "metadata", "currentStep", "progressPercent",
}

-- nil, null and "" are all: there is none.
local function some(value)
  if value == nil or value == null or value == "" then return nil end
  return value
end

-- A mail stays below what Gmail cuts (102 kB), whatever a build says; escaping makes five bytes of one.
local MAX_ERROR <const>, MAX_LINE <const>, MAX_LINES <const>, MAX_FILES <const> = 2000, 300, 20, 25

local function last_lines(lines)
  local list = {}
  for at = math.max(1, #lines - MAX_LINES + 1), #lines do list[#list + 1] = cut(lines[at], MAX_LINE) end
  return #list > 0 and table.concat(list, "\n") or null
end

local function time(stamp)
  local day, minute = stamp:match("^(%d+%-%d%d%-%d%d)T(%d%d:%d%d)")
  return day and ("%s %s UTC"):format(day, minute) or stamp
end

local function duration(seconds)
  local whole = math.floor(seconds + 0.5)
  if whole < 60 then return ("%d s"):format(whole) end
  if whole < 3600 then return ("%d min %d s"):format(whole // 60, whole % 60) end
  return ("%d h %d min"):format(whole // 3600, whole % 3600 // 60)
end

-- A mail may be late: of what has come since, a build's start and end, it shows what goes with its own event.
local function facts_of(event, build)
  local list, begun, ended = {}, event ~= "queued", ENDS[event]
  local function add(label, value)
    if value then list[#list + 1] = { label = label, value = one_line(value) } end
  end
  local cloud = some(build.cloudProvider)
  add("Configuration", some(build.configurationName))
  add("Tier", some(build.tier))
  add("Architecture", some(build.architecture))
  add("Cloud", cloud and (CLOUDS[cloud:lower()] or { name = cloud }).name)
  add("Priority", PRIORITIES[some(build.priority)])
  add("Build", some(build.id))
  add("Queued", some(build.enqueuedAt) and time(build.enqueuedAt))
  add("Started", begun and some(build.startedAt) and time(build.startedAt))
  add("Ended", ended and some(build.completedAt) and time(build.completedAt))
  add("Duration", ended and some(build.buildDurationSeconds) and duration(build.buildDurationSeconds))
  return list
end

local function files_of(build, base)
  local list, archive = {}, nil
  local all = some(build.artifacts) or {}
  for index = 1, math.min(#all, MAX_FILES) do
    local file = all[index]
    list[index] = {
      name = file.name, kind = file.kind or "file", size = file.size, sha256 = file.sha256,
      url = file.url or ("%s/downloads/%s/%s"):format(base, build.id, file.name),
    }
    if not archive and file.kind == "archive" then archive = list[index] end
  end
  return list, archive or list[1], #all - #list
end

local function steps_of(event, has_support, has_error)
  local last = has_support and "Write to the address below, and name the build's id, if you can't tell why."
    or "Ask whoever ordered the build, and name its id, if you can't tell why."
  if event == "timedout" then
    return { "See in the log which step took so long.", "Order the build again when that is mended.", last }
  end
  return { has_error and "Read the error above and the whole log." or "Read the log.",
    "Mend the source or the configuration, and order the build again.",
    last }
end

local function brand_of(config)
  return {
    name = config.BrandName, color = config.BrandColor, logoUrl = some(config.LogoUrl) or null,
    supportAddress = some(config.SupportAddress) or null,
  }
end

local function button_of(event, links, archive, build)
  if event == "completed" then
    local url = archive and archive.url or some(build.downloadUrl)
    if url then return { label = "Download the build", url = url } end
  end
  if event == "failed" or event == "timedout" or event == "retrying" then
    return { label = "Read the log", url = links.log }
  end
  return { label = "See the build", url = links.status }
end

local function preheader_of(event, reason, build)
  if reason then return cut(one_line(reason), 200) end
  if event == "completed" then return ("%s for %s is ready."):format(build.configurationName, build.architecture) end
  return ("%s, %s, %s"):format(build.tier, build.architecture, build.cloudProvider)
end

-- Names are one line, whoever wrote the row: a break in one must not add a line of its own to a mail.
local NAMES <const> = {
  configurationName = true, tier = true, architecture = true, cloudProvider = true, pipeline = true, currentStep = true,
}

local function build_of(given)
  local build = {}
  for _, name in ipairs(FIELDS) do
    local value = given[name]
    if value == nil then value = null end
    build[name] = NAMES[name] and type(value) == "string" and one_line(value) or value
  end
  return build
end

local function customer_of(delivery, given)
  local told = delivery.customer or { id = given.customerId, name = given.customerName, email = given.customerEmail }
  local name = some(told.name)
  return { id = told.id, name = name and one_line(name) or told.name, email = told.email }
end

--- Everything but `deploy`, which is a template itself: see notify.lua.
---@param delivery table
---@return table data
---@return string deploy_file "aws", "azure", "gcp" or "other"
function view.make(delivery)
  local given, event = delivery.build or {}, delivery.event
  local build, outbox = build_of(given), delivery.outboxData or {}
  local config = buildq.config
  local base = some(config.DownloadBaseUrl) or config.ServerUrl
  base = base:gsub("/+$", "")
  local files, archive, more_files = files_of(given, base)
  local links = {
    status = ("%s/builds/%s"):format(base, build.id), log = ("%s/builds/%s/log"):format(base, build.id),
  }
  local brand = brand_of(config)
  local reason = some(outbox.error)
  if not reason and event ~= "completed" then reason = some(given.errorMessage) end
  local attempt = delivery.attempt ~= 0 and delivery.attempt or some(build.attempt) or 1
  local status = STATUS[event] or { word = event, color = "#4a5563", background = "#eceff3" }
  local cloud = CLOUDS[tostring(some(build.cloudProvider) or ""):lower()]
  local function or_null(value) if value == nil then return null end return value end
  return {
    event = event, status = status, build = build, brand = brand, links = links, facts = facts_of(event, build),
    subject = one_line(("%s: %s"):format(status.word, build.configurationName)),
    preheader = preheader_of(event, reason, build), button = button_of(event, links, archive, build),
    customer = customer_of(delivery, given),
    artifacts = files, archive = or_null(archive), error = or_null(reason and cut(reason, MAX_ERROR)),
    moreArtifacts = more_files, logTail = last_lines(some(given.logTail) or {}),
    nextAttemptAt = or_null(some(outbox.nextAttemptAt) or some(build.nextAttemptAt)),
    attempt = { number = attempt, of = (some(build.maxRetries) or config.MaxRetryAttempts) + 1 },
    expiresAt = or_null(event == "completed" and some(given.expiresAt) or nil),
    steps = steps_of(event, brand.supportAddress ~= null, reason ~= nil), data = delivery.data or {}, deploy = null,
    createdAt = or_null(delivery.createdAt), recipient = delivery.recipient,
    unsubscribeUrl = or_null(delivery.test ~= true and buildq.notifications.unsubscribe_url(event,
      some(given.customerId) or "", delivery.recipient) or nil),
  }, cloud and cloud.file or "other", cloud and cloud.where or "on your own machines"
end

return view
