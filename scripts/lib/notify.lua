-- Notifications: which deliveries an event of a build makes, and what each of them sends. The rules are the files of
-- scripts/notifications, the texts those of templates; both of the generation that this runs in.

local buildq = require "buildq"
local http = require "notify.http"
local samples = require "notify.samples"
local template = require "template"
local view = require "notify.view"

local notify = {}

local MAX_DELIVERIES <const> = 50 -- of one event

local rules, engine

-- {path, events = {name = true}, rule}, in the order of their paths.
local function all_rules()
  if rules then return rules end
  local list = {}
  for _, path in ipairs(buildq.templates.rules()) do
    local rule, events = buildq.templates.load_rule(path), {}
    for _, name in ipairs(rule.events) do events[name] = true end
    list[#list + 1] = { path = path, rule = rule, events = events }
  end
  rules = list
  return list
end

local function check_delivery(path, given)
  local function need(ok, message) if not ok then error(("%s: %s"):format(path, message), 0) end end
  need(type(given) == "table", "deliver must return a list of deliveries")
  for _, name in ipairs { "channel", "recipient" } do
    need(type(given[name]) == "string" and given[name] ~= "", ("a delivery needs a %s, a text"):format(name))
  end
  need(given.template == nil or type(given.template) == "string", "a delivery's template must be a name")
  need(given.data == nil or type(given.data) == "table", "a delivery's data must be a table")
end

-- What all rules say of an event. Who was named for a channel already is not told twice. `asked` gets the path of the
-- rule that is asked now.
local function deliveries_of(event, asked)
  local list, known = {}, {}
  for _, entry in ipairs(all_rules()) do
    if asked then asked.path = entry.path end
    local made = entry.events[event.event] and entry.rule.deliver(event) or {}
    if type(made) ~= "table" then error(("%s: deliver must return a list"):format(entry.path), 0) end
    for _, given in ipairs(made) do
      check_delivery(entry.path, given)
      local key = given.channel .. "\0" .. given.recipient:lower()
      if not known[key] then
        known[key] = true
        list[#list + 1] = {
          channel = given.channel, recipient = given.recipient, template = given.template or event.event,
          data = given.data or {},
        }
      end
    end
  end
  if #list > MAX_DELIVERIES then
    error(("%s makes %d deliveries, %d is the most"):format(event.event, #list, MAX_DELIVERIES), 0)
  end
  return list
end

-- The server knows whether memory was out, which is no fault of a rule (the event is expanded again later), or the rule
-- wanted more than it may have.
local function is_of_memory(reason)
  return type(reason) == "table" and reason.kind == "out_of_memory" or tostring(reason):find "not enough memory$" ~= nil
end

-- Lua's own error for that has no place.
local function with_place(reason, path)
  return reason == "not enough memory" and ("%s: %s"):format(path, reason) or reason
end

--- The deliveries of each event, in the same order. A fault of any rule faults the whole event: nothing is half done.
---@param events NotificationEvent[]
---@return {deliveries: Delivery[]?, fault: string?}[]
function notify.expand(events)
  local results = {}
  for index, event in ipairs(events) do
    local asked = {}
    local ok, made = pcall(deliveries_of, event, asked)
    if not ok and is_of_memory(made) then error(with_place(made, asked.path), 0) end
    -- A list also when nobody is told.
    results[index] = ok and { deliveries = buildq.json.array(made) } or { fault = tostring(made) }
  end
  return results
end

local function mail(delivery)
  engine = engine or template.new { read = buildq.templates.read, null = buildq.json.null }
  local data, cloud, where = view.make(delivery)
  if delivery.event == "completed" then
    local commands = engine:render(("email/deploy/%s.txt"):format(cloud), data):gsub("^%s+", ""):gsub("%s+$", "")
    if commands ~= "" then data.deploy = { where = where, commands = commands } end
  end
  local path = "email/" .. (delivery.template or delivery.event)
  return {
    to = { name = data.customer.email == delivery.recipient and data.customer.name or "",
      address = delivery.recipient },
    replyTo = buildq.config.ReplyTo ~= "" and buildq.config.ReplyTo or nil, subject = data.subject,
      html = engine:render(path .. ".html", data), text = engine:render(path .. ".txt", data),
  }
end

local function with_sample(delivery)
  local copy, sample = {}, samples.make(delivery.event)
  for name, value in pairs(delivery) do copy[name] = value end
  copy.build, copy.customer = sample.build, sample.customer
  copy.outboxData, copy.attempt = sample.data, sample.attempt
  return copy
end

-- What the script's own `message` makes of a delivery.
local function made_by(entry, delivery)
  local made = entry.rule.message(delivery)
  if type(made) ~= "table" then error(("%s: message must return a table"):format(entry.path), 0) end
  if not (made.mail or made.http) then made = delivery.channel == "email" and { mail = made } or { http = made } end
  if made.http then made.http = http.check(entry.path, made.http) end
  return made
end

--- What a delivery sends. Raises "templates/email/failed.html:12: …" or the rule's own error. A delivery without a
--- build is a test: it shows a sample.
---@param delivery table
---@return {mail: table?, http: table?}
function notify.message(delivery)
  local build = delivery.build
  if build == nil or build == buildq.json.null then delivery = with_sample(delivery) end
  for _, entry in ipairs(all_rules()) do
    local rule = entry.rule
    if rule.message and (rule.channel or "email") == delivery.channel then return made_by(entry, delivery) end
  end
  if delivery.channel ~= "email" then error(("no script serves the channel %s"):format(delivery.channel), 0) end
  return { mail = mail(delivery) }
end

local function delivery_of(event, channel, recipient)
  return {
    id = "00000000-0000-7000-8000-000000000000", event = event.event, round = event.round, attempt = event.attempt,
    createdAt = event.createdAt, data = {}, outboxData = event.data, build = event.build, customer = event.customer,
    channel = channel, recipient = recipient, template = event.event, tries = 0,
  }
end

--- The names of all events.
---@return string[]
function notify.events() return samples.events end

--- Whether there is such an event; a sentence that names them when there is none.
---@param name string
---@return boolean known
---@return string? refusal
function notify.is_event(name)
  for _, known in ipairs(samples.events) do
    if known == name then return true end
  end
  return false, ("there is no event %s; there are %s"):format(name, table.concat(samples.events, ", "))
end

---@class PreviewOptions
---@field cloud? string of a sample
---@field channel? string "email" when absent
---@field recipient? string whom the rules name for that channel, else the customer

---@class Preview
---@field mail? table
---@field http? table
---@field delivery table what it was made of
---@field owed boolean whether a rule tells anybody of this event by this channel

--- What would be sent for an event, by the rules and templates of this generation.
---@param event string|NotificationEvent a name: with a sample
---@param options? PreviewOptions
---@return Preview
function notify.preview(event, options)
  options = options or {}
  local made = type(event) == "table" and event or samples.make(event, options.cloud)
  local channel, owed = options.channel or "email", nil
  for _, entry in ipairs(deliveries_of(made)) do
    if not owed and entry.channel == channel then owed = entry end
  end
  local delivery = delivery_of(made, channel, options.recipient or owed and owed.recipient or made.customer.email)
  if owed then delivery.template, delivery.data = owed.template, owed.data end
  local preview = notify.message(delivery)
  preview.delivery, preview.owed = delivery, owed ~= nil
  return preview
end

---@return NotificationEvent[]
function notify.samples() return samples.all() end

--- Expands and renders all samples with all rules; raises the first fault. It runs before a generation goes live.
function notify.check()
  for _, event in ipairs(samples.all()) do
    for _, made in ipairs(deliveries_of(event)) do
      local delivery = delivery_of(event, made.channel, made.recipient)
      delivery.template, delivery.data = made.template, made.data
      notify.message(delivery)
    end
    for _, entry in ipairs(all_rules()) do -- also a channel that is off as long as it isn't configured
      if entry.rule.message and entry.rule.channel and entry.events[event.event] then
        made_by(entry, delivery_of(event, entry.rule.channel, "sample"))
      end
    end
  end
end

return notify
