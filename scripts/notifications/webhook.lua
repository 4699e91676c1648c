-- A server of your own gets each event of a build as signed JSON (Standard Webhooks 1.0). Off until
-- Notifications.WebhookUrl and WebhookSecrets are given; WebhookEvents says what is told.

local buildq = require "buildq"
local view = require "notify.view"

local config <const> = buildq.config
local null <const> = buildq.json.null

local FIELDS <const> = {
  "id", "status", "configurationName", "tier", "architecture", "cloudProvider", "priority", "pipeline", "metadata",
  "attempt", "retryCount", "maxRetries", "enqueuedAt", "startedAt", "completedAt", "buildDurationSeconds", "imageUrl",
}

-- What is not known is null; no name is ever missing.
local function data_of(delivery)
  local shown = view.make(delivery)
  local data = {
    customerId = shown.customer.id or null, customerName = shown.customer.name or null,
    round = delivery.round, error = shown.error, nextAttemptAt = shown.nextAttemptAt, expiresAt = shown.expiresAt,
    artifacts = buildq.json.array(shown.artifacts), moreArtifacts = shown.moreArtifacts,
    statusUrl = shown.links.status, logUrl = shown.links.log,
  }
  for _, name in ipairs(FIELDS) do data[name] = shown.build[name] end
  return data
end

local function message(delivery)
  -- The same for each try, so that a receiver can tell a repetition; another one when somebody sends it again.
  local id = delivery.id
  if (delivery.resend or 0) > 0 then id = ("%s-%d"):format(id, delivery.resend) end
  return {
    http = {
      url = { secret = "WebhookUrl" },
      body = { type = "build." .. delivery.event, timestamp = delivery.createdAt, data = data_of(delivery) },
      sign = { id = id, secrets = { "WebhookSecrets" } },
    },
  }
end

---@param event NotificationEvent
---@return Delivery[]
local function deliver(event)
  if config.Webhook == "" or not config.WebhookEvents[event.event] then return {} end
  return { { channel = "webhook", recipient = config.Webhook } }
end

return {
  events = { "queued", "started", "retrying", "completed", "failed", "timedout", "cancelled" },
  channel = "webhook", deliver = deliver, message = message,
}
