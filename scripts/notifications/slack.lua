-- A channel in Slack is told what becomes of builds, by an incoming webhook (Block Kit). Off until
-- Notifications.SlackWebhookUrl is given; SlackEvents says what is told.

local buildq = require "buildq"
local text = require "notify.text"
local view = require "notify.view"

local config <const> = buildq.config

local MARKS <const> = {
  queued = "📥", started = "🔨", retrying = "🔁", completed = "✅", failed = "❌", timedout = "⌛", cancelled = "🚫",
}
-- Slack's own: 150 characters in a header, 3000 in a text, 2000 in a field; never more than that many bytes.
local MAX_HEADER <const>, MAX_TEXT <const>, MAX_FIELD <const>, MAX_URL <const> = 145, 2900, 600, 2000
local ENTITIES <const> = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }

---Links, mentions and channels of Slack's mrkdwn are all written with these three characters.
---@param value string
---@param bytes integer at most, with what stands for the three
---@return string
local function escape(value, bytes)
  local whole = value:gsub("[&<>]", ENTITIES)
  if #whole <= bytes then return whole end
  return (text.cut(whole, bytes - 3):gsub("&%a*…$", "…")) -- and no half of one
end

local function mrkdwn(value) return { type = "mrkdwn", text = value, verbatim = true } end

local function link(url, label)
  local safe = url:gsub("[%c%s<>|\"]", function(c) return ("%%%02X"):format(c:byte()) end):gsub("&", "&amp;")
  return #safe <= MAX_URL and ("<%s|%s>"):format(safe, escape(label, 200)) or escape(label, 200)
end

local function reason_of(shown)
  -- Three backticks would end the block.
  if shown.error ~= buildq.json.null then
    return ("```%s```"):format(escape(text.lines(shown.error):gsub("`", "ˋ"), MAX_TEXT))
  end
  return escape(shown.preheader, MAX_TEXT)
end

local function links_of(shown)
  local list = { ("*%s*"):format(link(shown.button.url, shown.button.label)) }
  if shown.button.url ~= shown.links.log then list[#list + 1] = link(shown.links.log, "Log") end
  if shown.button.url ~= shown.links.status then list[#list + 1] = link(shown.links.status, "Build") end
  return table.concat(list, "  ·  ")
end

-- At most ten, which is all that a section takes.
local function fields_of(shown)
  local list = { mrkdwn("*Customer*\n" .. escape(text.one_line(shown.customer.name or ""), MAX_FIELD)) }
  for _, fact in ipairs(shown.facts) do
    if fact.label ~= "Build" then
      list[#list + 1] = mrkdwn(("*%s*\n%s"):format(fact.label, escape(text.one_line(fact.value), MAX_FIELD)))
    end
  end
  return list
end

local function message(delivery)
  local shown = view.make(delivery)
  local mark = MARKS[delivery.event] or "🔔"
  local title = ("%s %s"):format(mark, shown.subject)
  return {
    http = {
      url = { secret = "SlackWebhookUrl" },
      body = {
        text = escape(title, MAX_TEXT), -- for what shows no blocks: notifications, screen readers
        blocks = {
          { type = "header", text = { type = "plain_text", text = text.cut(title, MAX_HEADER), emoji = false } },
          { type = "section", text = mrkdwn(reason_of(shown)) },
          { type = "section", fields = fields_of(shown) },
          { type = "section", text = mrkdwn(links_of(shown)) },
          { type = "context", elements = {
            mrkdwn(escape(("%s  ·  build %s"):format(shown.brand.name, shown.build.id), MAX_TEXT)) } },
        },
      },
    },
  }
end

---@param event NotificationEvent
---@return Delivery[]
local function deliver(event)
  if config.SlackWebhook == "" or not config.SlackEvents[event.event] then return {} end
  return { { channel = "slack", recipient = config.SlackWebhook } }
end

return {
  events = { "queued", "started", "retrying", "completed", "failed", "timedout", "cancelled" },
  channel = "slack", deliver = deliver, message = message,
}
