-- Notifications: which deliveries an event of a build makes, and what each of them sends. The rules are the files of
-- scripts/notifications, the texts those of templates; both of the generation that this runs in.

local buildq = require "buildq"
local samples = require "notify.samples"
local template = require "template"
local view = require "notify.view"

local notify = {}

local MAX_DELIVERIES <const> = 50 -- of one event

local rules, own_engine

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

local function engine_of(read)
  if read then return template.new { read = read, null = buildq.json.null } end
  own_engine = own_engine or template.new { read = buildq.templates.read, null = buildq.json.null }
  return own_engine
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

-- What all rules say of an event. Who was named for a channel already is not told twice.
local function deliveries_of(event)
  local list, known = {}, {}
  for _, entry in ipairs(all_rules()) do
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

--- The deliveries of each event, in the same order. A fault of any rule faults the whole event: nothing is half done.
---@param events NotificationEvent[]
---@return {deliveries: Delivery[]?, fault: string?}[]
function notify.expand(events)
  local results = {}
  for index, event in ipairs(events) do
    local ok, made = pcall(deliveries_of, event)
    results[index] = ok and { deliveries = made } or { fault = tostring(made) }
  end
  return results
end

local function mail(delivery, read)
  local engine = engine_of(read)
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

--- What a delivery sends. Raises "templates/email/failed.html:12: …" or the rule's own error.
---@param delivery table
---@return {mail: table?, http: table?}
function notify.message(delivery)
  for _, entry in ipairs(all_rules()) do
    local rule = entry.rule
    if rule.message and (rule.channel or "email") == delivery.channel then
      local made = rule.message(delivery)
      if type(made) ~= "table" then error(("%s: message must return a table"):format(entry.path), 0) end
      if made.mail or made.http then return made end
      return delivery.channel == "email" and { mail = made } or { http = made }
    end
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

---@class PreviewOptions
---@field read? fun(path: string): string? the text of "email/x.html", for templates that aren't live
---@field cloud? string of the sample
---@field data? table what the event says, beside a build: error, nextAttemptAt
---@field attempt? integer likewise
---@field recipient? string the customer when absent
---@field template? string the event's when absent

--- A mail as it would be sent.
---@param event string "completed"
---@param build? table as events have it; a sample when absent
---@param options? PreviewOptions
---@return {mail: table}
function notify.preview(event, build, options)
  options = options or {}
  local made = samples.make(event, options.cloud)
  if build then
    made.build, made.data, made.attempt = build, options.data or {}, options.attempt or 0
    made.customer = { id = build.customerId, name = build.customerName, email = build.customerEmail or "" }
  end
  local delivery = delivery_of(made, "email", options.recipient or made.customer.email)
  delivery.template = options.template or event
  return { mail = mail(delivery, options.read) }
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
        entry.rule.message(delivery_of(event, entry.rule.channel, "sample"))
      end
    end
  end
end

return notify
