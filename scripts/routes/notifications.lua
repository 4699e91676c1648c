-- Notifications: what was told to whom, and what became of it; requeue, resend, cancel, a test.

local buildq = require "buildq"
local check = require "check"
local notify = require "notify"
local problem = require "problem"
local reply = require "reply"
local request = require "request"

local notifications = buildq.notifications

local function unknown(id)
  return problem.new(404, ("There is no notification %s."):format(id))
end

local LIST <const> = {
  state = { type = "text", max = 20 }, channel = { type = "text", max = 100 }, event = { type = "text", max = 50 },
  build = { type = "text", max = 36 }, customerId = { type = "text" }, recipient = { type = "text", max = 1000 },
  limit = { type = "integer", min = 1, max = 500 }, cursor = { type = "text", max = 500 },
}
local STATES <const> = {
  waiting = true, sending = true, faulty = true, sent = true, dead = true, cancelled = true, skipped = true,
}

local function list(req)
  local options, faults = request.query(req.query, LIST)
  if options and options.state and not STATES[options.state] then
    faults = { { path = "?state", message = "must be waiting, sending, faulty, sent, dead, cancelled or skipped" } }
  end
  if faults then return problem.faults(faults, "The query") end
  local page, failure = notifications.list(options)
  if not page then return problem.from(failure) end
  local failing = {} -- what has no channel, recipient or state yet is on first pages that don't ask for another
  if not (options.cursor or options.channel or options.recipient) and (options.state or "faulty") == "faulty" then
    failing = notifications.faults { build = options.build, event = options.event, customerId = options.customerId }
  end
  page.faults = buildq.json.array(failing)
  return reply.json(page)
end

local function show(req)
  local found = notifications.get(req.params.id)
  return found and reply.json(found) or unknown(req.params.id)
end

-- What became of a change, as a response.
local function changed(req, result, refusal)
  if not result then return unknown(req.params.id) end
  if result.outcome == "done" then return reply.json(result.delivery) end
  return problem.new(409, refusal:format(result.state))
end

local function requeue(req)
  local _, refusal = reply.body(req, true)
  if refusal then return refusal end
  local result = notifications.requeue(req.params.id)
  local again = result and result.state == "sent" and " To send it once more on purpose: resend." or ""
  return changed(req, result, "The notification is %s, so there is nothing to try again." .. again)
end

local function resend(req)
  local _, refusal = reply.body(req, true)
  if refusal then return refusal end
  return changed(req, notifications.requeue(req.params.id, true), "The notification is %s now: it is under way.")
end

local function cancel(req)
  local _, refusal = reply.body(req, true)
  if refusal then return refusal end
  return changed(req, notifications.cancel(req.params.id), "Only what waits can be cancelled; this is %s.")
end

-- Whom the rules tell of this event by a channel; nil and why nobody.
local function owed_recipient(channel, event)
  local ok, preview = pcall(notify.preview, event, { channel = channel })
  if not ok then return nil, tostring(preview) end
  if preview.owed then return preview.delivery.recipient end
  return nil, ("No script of scripts/notifications tells %s of %s; is it configured?"):format(channel, event)
end

local function send_test(req)
  local body, refusal = reply.body(req)
  if refusal then return refusal end
  local c = check.new()
  local fields = c:object(body, "$", { "recipient", "channel", "event", "build" }) or {}
  local recipient = c:text(fields.recipient, "$.recipient", { max = 254 })
  local channel = c:text(fields.channel, "$.channel", { max = 50 }) or "email"
  local is_mail = channel == "email"
  if is_mail and fields.recipient == nil then c:fault("$.recipient", nil, "is required: a mail address") end
  if is_mail and recipient and not request.is_email(recipient) then
    c:fault("$.recipient", recipient, "must be a mail address")
  end
  local event = c:text(fields.event, "$.event", { max = 50 }) or "completed"
  local known, unknown_event = notify.is_event(event)
  if not known then c:fault("$.event", event, "is unknown: " .. unknown_event) end
  local build = c:text(fields.build, "$.build", { max = 36 })
  if #c.faults > 0 then return problem.faults(c.faults, "The request") end
  local nobody
  if not recipient then recipient, nobody = owed_recipient(channel, event) end
  if not recipient then return problem.new(422, nobody) end
  local made = notifications.send_test { channel = channel, recipient = recipient, event = event, build = build }
  if not made then return problem.new(404, ("There is no build %s."):format(build)) end
  return { status = 202, headers = { Location = "/notifications/" .. made.id }, json = made }
end

return {
  { method = "GET", path = "/notifications", handle = list },
  { method = "GET", path = "/notifications/{id}", handle = show },
  { method = "POST", path = "/notifications/{id}/requeue", handle = requeue },
  { method = "POST", path = "/notifications/{id}/resend", handle = resend },
  { method = "POST", path = "/notifications/{id}/cancel", handle = cancel },
  { method = "POST", path = "/notifications/test", handle = send_test },
}
