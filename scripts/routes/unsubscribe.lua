-- Who wants no more: what operators say about customers and recipients, and what recipients say by the link in a mail.

local buildq = require "buildq"
local check = require "check"
local notify = require "notify"
local page = require "page"
local problem = require "problem"
local reply = require "reply"
local request = require "request"

local notifications = buildq.notifications

-- For operators -----------------------------------------------------------------------------------------------------

local FIELDS <const> = {
  channel = { type = "text", max = 100 }, customerId = { type = "text" }, recipient = { type = "text", max = 1000 },
  event = { type = "text", max = 50 },
}

local function list(req)
  local options, faults = request.query(req.query, {
    customerId = FIELDS.customerId, recipient = FIELDS.recipient, limit = { type = "integer", min = 1, max = 1000 },
  })
  if not options then return problem.faults(faults, "The query") end
  return reply.json {
    suppressions = buildq.json.array(notifications.suppressions(options)),
    disabled = buildq.json.array(notifications.disabled()),
  }
end

local function check_whom(c, given, prefix)
  if not given.customerId and not given.recipient then
    c:fault(prefix .. "customerId", nil, "is required, or recipient")
  end
  if given.event then
    local known, refusal = notify.is_event(given.event)
    if not known then c:fault(prefix .. "event", given.event, "is unknown: " .. refusal) end
  end
end

local function add(req)
  local body, refusal = reply.body(req)
  if refusal then return refusal end
  local c = check.new()
  local fields = c:object(body, "$", { "channel", "customerId", "recipient", "event", "reason", "source" }) or {}
  local given = {}
  for name, rule in pairs(FIELDS) do given[name] = c:text(fields[name], "$." .. name, { max = rule.max or 255 }) end
  given.reason = c:text(fields.reason, "$.reason", { max = 250 })
  given.source = c:text(fields.source, "$.source", { max = 20 }) or "api"
  if given.source ~= "api" and given.source ~= "command" then
    c:fault("$.source", given.source, "must be api or command")
  end
  check_whom(c, given, "$.")
  if #c.faults > 0 then return problem.faults(c.faults, "The request") end
  return reply.json(notifications.suppress(given))
end

local function remove(req)
  local given, faults = request.query(req.query, FIELDS)
  if not given then return problem.faults(faults, "The query") end
  local c = check.new()
  check_whom(c, given, "?")
  if #c.faults > 0 then return problem.faults(c.faults, "The query") end
  local result = notifications.unsuppress(given)
  if result.removed > 0 then return reply.json(result) end
  return problem.new(404, "Nobody is unsubscribed with just these: GET /notifications/suppressions lists who is.")
end

local function enable(req)
  local given, faults = request.query(req.query, {
    channel = { type = "text", max = 100, required = true }, recipient = { type = "text", max = 1000, required = true },
  })
  if not given then return problem.faults(faults, "The query") end
  local result = notifications.enable(given.channel, given.recipient)
  if result.removed > 0 then return reply.json(result) end
  return problem.new(404, ("%s is not disabled for %s."):format(given.recipient, given.channel))
end

-- For recipients ----------------------------------------------------------------------------------------------------

local ABOUT <const> = {
  queued = "builds that were queued", started = "builds that have started", retrying = "builds that are tried again",
  completed = "builds that are ready", failed = "builds that have failed", timedout = "builds that took too long",
  cancelled = "builds that were cancelled",
}

local function words(text) return { text = text, strong = false } end
local function strong(text) return { text = text, strong = true } end

local function show_page(title, lines, buttons, status)
  return page.new("pages/unsubscribe.html", {
    title = title, lines = lines, buttons = buttons or buildq.json.null, brand = buildq.config.BrandName,
  }, status)
end

local function bad_link()
  return show_page("This link doesn't work", {
    { words "It is not whole, or too old. Open it from the mail again, or answer the mail." },
  }, nil, 400)
end

local STOP <const> = { scope = "event", label = "Stop these mails" }
local STOP_ALL <const> = { scope = "all", label = "Stop all mails" }
local TAKE_BACK <const> = { scope = "none", label = "Send them again" }

local function ask(req)
  local said = notifications.read_unsubscribe(req.query.token or "")
  if not said then return bad_link() end
  return show_page("Stop mails about builds?", {
    { words "To ", strong(said.recipient), words ", about builds of ", strong(said.customerId),
      words ": no more mails about ", words(ABOUT[said.event] or said.event), words ", or no more at all." },
  }, { STOP, STOP_ALL })
end

-- A button of the page says which scope; a mail program (RFC 8058: one click) only that it wants no more of these.
local function stop(req)
  local said = notifications.read_unsubscribe(req.query.token or "")
  if not said then return bad_link() end
  local scope = req.body:match "^scope=(%a+)$" or "event"
  local whom = { customerId = said.customerId, recipient = said.recipient, source = "link" }
  local line = { words "To ", strong(said.recipient), words ", about builds of ", strong(said.customerId), words "." }
  if scope == "none" then -- what a link has said, not what an operator has
    notifications.unsuppress(whom)
    whom.event = said.event
    notifications.unsuppress(whom)
    return show_page("You get these mails again", { line }, { STOP, STOP_ALL })
  end
  if scope ~= "all" then whom.event = said.event end
  notifications.suppress(whom)
  if scope == "all" then return show_page("No more mails about builds", { line }, { TAKE_BACK }) end
  local title = ("No more mails about %s"):format(ABOUT[said.event] or said.event)
  return show_page(title, { line }, { TAKE_BACK, STOP_ALL })
end

local function check_pages()
  page.render("pages/unsubscribe.html", {
    title = "Title", lines = { { words "a", strong "b" } }, buttons = { STOP }, brand = "Honua Server",
  })
end

return {
  { method = "GET", path = "/notifications/suppressions", handle = list },
  { method = "POST", path = "/notifications/suppressions", handle = add },
  { method = "DELETE", path = "/notifications/suppressions", handle = remove },
  { method = "DELETE", path = "/notifications/disabled", handle = enable },
  { method = "GET", path = "/notifications/unsubscribe", handle = ask },
  { method = "POST", path = "/notifications/unsubscribe", handle = stop, form = true },
  check = check_pages,
}
