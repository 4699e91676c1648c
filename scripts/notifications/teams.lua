-- A channel in Microsoft Teams is told what becomes of builds, by a workflow that posts what its webhook gets (an
-- Adaptive Card). Off until Notifications.TeamsWebhookUrl is given; TeamsEvents says what is told.

local buildq = require "buildq"
local text = require "notify.text"
local view = require "notify.view"

local config <const> = buildq.config

local STYLES <const> = { completed = "good", failed = "attention", timedout = "warning", retrying = "warning" }
local COLORS <const> = { completed = "Good", failed = "Attention", timedout = "Warning", retrying = "Warning" }
-- Teams takes 28 kB in all. JSON makes at most two bytes of one here: control characters are gone.
local MAX_TITLE <const>, MAX_REASON <const>, MAX_FACT <const>, MAX_URL <const> = 400, 2000, 400, 2000

-- Cards replace {{DATE(…)}} in all texts.
local function plain(value, bytes)
  local short = text.cut(value, bytes)
  return short:find("{{", 1, true) and short:gsub("{", "{\u{200B}") or short
end

-- A run of text is shown as it is, whereas a TextBlock or a Fact reads its text as markdown.
local function run(value, options)
  local made = { type = "TextRun", text = value }
  for name, given in pairs(options or {}) do made[name] = given end
  return made
end

local function line(runs, options)
  local made = { type = "RichTextBlock", inlines = runs }
  for name, given in pairs(options or {}) do made[name] = given end
  return made
end

local function fact(label, value)
  return {
    type = "ColumnSet", spacing = "Small", columns = {
      { type = "Column", width = "110px", items = { line { run(label, { isSubtle = true }) } } },
      { type = "Column", width = "stretch", items = { line { run(plain(text.one_line(value), MAX_FACT)) } } },
    },
  }
end

local function reason_of(shown)
  if shown.error == buildq.json.null then return line { run(plain(text.one_line(shown.preheader), MAX_REASON)) } end
  return line { run(plain(text.lines(shown.error), MAX_REASON), { fontType = "Monospace", size = "Small" }) }
end

local function actions_of(shown)
  local list, known = {}, {}
  local function add(title, url)
    if known[url] or #url > MAX_URL then return end
    known[url] = true
    list[#list + 1] = { type = "Action.OpenUrl", title = title, url = url }
  end
  add(shown.button.label, shown.button.url)
  add("Log", shown.links.log)
  add("Build", shown.links.status)
  return list
end

local function card_of(event, shown)
  local body = {
    { type = "Container", style = STYLES[event] or "emphasis", bleed = true, items = {
      line { run(plain(shown.subject, MAX_TITLE), { size = "Medium", weight = "Bolder", color = COLORS[event] }) } } },
    reason_of(shown),
    fact("Customer", shown.customer.name or ""),
  }
  body[3].spacing, body[3].separator = "Medium", true -- between what happened and the table
  for _, entry in ipairs(shown.facts) do body[#body + 1] = fact(entry.label, entry.value) end
  body[#body + 1] = line({ run(plain(shown.brand.name, MAX_FACT), { isSubtle = true, size = "Small" }) })
  return {
    ["$schema"] = "http://adaptivecards.io/schemas/adaptive-card.json", type = "AdaptiveCard", version = "1.4",
    fallbackText = plain(shown.subject, MAX_TITLE), body = body, actions = actions_of(shown),
    msteams = { width = "Full" },
  }
end

local function message(delivery)
  local shown = view.make(delivery)
  return {
    http = {
      url = { secret = "TeamsWebhookUrl" },
      body = {
        type = "message",
        attachments = {
          { contentType = "application/vnd.microsoft.card.adaptive", contentUrl = buildq.json.null,
            content = card_of(delivery.event, shown) },
        },
      },
    },
  }
end

---@param event NotificationEvent
---@return Delivery[]
local function deliver(event)
  if config.TeamsWebhook == "" or not config.TeamsEvents[event.event] then return {} end
  return { { channel = "teams", recipient = config.TeamsWebhook } }
end

return {
  events = { "queued", "started", "retrying", "completed", "failed", "timedout", "cancelled" },
  channel = "teams", deliver = deliver, message = message,
}
