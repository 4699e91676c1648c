-- What a notification says, in a browser: with a build or a sample, by the scripts and templates that are live. The
-- page draws itself anew when others go live. And what it would say with templates that a request brings.

local buildq = require "buildq"
local check = require "check"
local notify = require "notify"
local page = require "page"
local problem = require "problem"
local reply = require "reply"
local request = require "request"
local samples = require "notify.samples"

local QUERY <const> = {
  build = { type = "text", max = 36 }, cloud = { type = "text", max = 50 }, channel = { type = "text", max = 100 },
  recipient = { type = "text", max = 1000 }, format = { type = "text", max = 10 },
}
-- Of templates that a request brings; MaxBodyKilobytes bounds them too.
local MAX_FILES <const>, MAX_CHARACTERS <const> = 50, 262144
local FORMATS <const> = { page = true, html = true, text = true, eml = true, json = true }

local function header(list, name, value)
  if value ~= nil and value ~= "" then list[#list + 1] = { name = name, value = value } end
end

-- Those of the mail as it would be sent, with names and subject in plain letters instead of their encoded form.
local function headers_of_mail(made)
  local list, mail = {}, made.mail
  local plain = {
    Subject = mail.subject, To = mail.to.name ~= "" and ("%s <%s>"):format(mail.to.name, mail.to.address) or nil,
  }
  local head = made.bytes:match "^(.-)\r\n\r\n":gsub("\r\n[ \t]+", " ")
  for line in head:gmatch "[^\r\n]+" do
    local name, value = line:match "^([%w-]+):%s*(.*)$"
    header(list, name, plain[name] or value)
  end
  return list
end

local function headers_of(made)
  if made.mail then return headers_of_mail(made) end
  local list, url = {}, made.http.url
  header(list, "URL", type(url) == "table" and ("the secret %s"):format(url.secret) or url)
  header(list, "Content-Type", made.http.contentType)
  return list
end

local function text_of(made)
  if made.mail then return made.mail.text end
  local body = made.http.body
  return type(body) == "string" and body or buildq.json.encode(body)
end

-- `shown`: {event, about, build, cloud, channel, prefix, clouds}, `made` the message, or `fault` why there is none.
local function data_of(shown, made, fault, generation)
  return {
    event = shown.event, about = shown.about, build = shown.build or "", cloud = shown.cloud or "",
    channel = shown.channel or "", prefix = shown.prefix, clouds = shown.clouds or buildq.json.null,
    events = samples.events, generation = generation, fault = fault or buildq.json.null,
    hasHtml = made ~= nil and made.mail ~= nil, headers = made and headers_of(made) or {},
    text = made and text_of(made) or "", textTitle = made and made.http and "Request" or "Text",
  }
end

local function answer(format, shown, made, fault, facts)
  if format == "json" then
    return reply.json { event = shown.event, facts = facts, mail = made and made.mail, http = made and made.http,
      owed = made and made.owed, fault = fault }
  end
  if format == "page" then
    return page.new("pages/preview.html", data_of(shown, made, fault, buildq.generations.here().current))
  end
  if fault then return problem.new(422, fault) end
  if format == "html" and made.mail then return page.framed(made.mail.html) end
  if format == "eml" and made.mail then
    return {
      status = 200, body = made.bytes,
      headers = { ["Content-Type"] = "message/rfc822", ["Cache-Control"] = "no-store",
        ["Content-Disposition"] = ('attachment; filename="%s.eml"'):format(shown.event) },
    }
  end
  return {
    status = 200, body = text_of(made),
    headers = { ["Content-Type"] = "text/plain; charset=utf-8", ["Cache-Control"] = "no-store",
      ["X-Content-Type-Options"] = "nosniff" },
  }
end

local function options_of(req, default)
  local options, faults = request.query(req.query, QUERY)
  if options and options.format and not FORMATS[options.format] then
    faults = { { path = "?format", message = "must be page, html, text, eml or json" } }
  end
  if faults then return nil, problem.faults(faults, "The query") end
  options.format = options.format or default or "page"
  return options
end

-- {mail|http, bytes (of a mail), …}, or nil and what a script or template said.
local function render(fn, ...)
  local ok, made = pcall(function(...)
    local message = fn(...)
    if message.mail then message.bytes = buildq.notifications.mail_bytes(message.delivery, message.mail) end
    return message
  end, ...)
  if ok then return made end
  return nil, tostring(made)
end

-- {["email/failed.html"] = text}, or nil and the refusal.
local function templates_of(req)
  local body, refusal = reply.body(req)
  if refusal then return nil, refusal end
  local c = check.new()
  local fields = c:object(body, "$", { "templates" }, function(path) c:fault(path, nil, "is unknown") end) or {}
  local files = c:map(fields.templates, "$.templates", MAX_FILES, function(text, path, name)
    local ok = #name <= 200 and name:find "^[%w_][%w_%-%./]*$" and not name:find("..", 1, true)
    if not ok then c:fault(path, nil, "must be a path below templates, such as email/failed.html") end
    return c:text(text, path, { max = MAX_CHARACTERS, min = 0, lines = true })
  end)
  if #c.faults > 0 then return nil, problem.faults(c.faults, "The request") end
  return files
end

local function message_of(delivery)
  local message = notify.message(delivery)
  message.delivery = delivery
  return message
end

-- The event of a build as it was, or would be now; nil for a sample. Else the refusal.
local function facts_of(options, name)
  if not options.build then return nil end
  local facts = buildq.notifications.facts(options.build, name)
  if facts then return facts end
  return nil, problem.new(404, ("There is no build %s."):format(options.build))
end

local function of_event(req)
  local name = req.params.event
  local known, refusal = notify.is_event(name)
  if not known then return problem.new(404, refusal .. ".") end
  local options, bad = options_of(req)
  if not options then return bad end
  local facts, no_build = facts_of(options, name)
  if no_build then return no_build end
  local made, fault = render(notify.preview, facts or name, options)
  local about = options.build and ("build %s"):format(options.build) or "a sample"
  if made and not made.owed then about = about .. "; no script sends this" end
  return answer(options.format, {
    event = name, about = about, build = options.build, cloud = not options.build and (options.cloud or "aws") or nil,
    channel = options.channel, prefix = "", clouds = not options.build and samples.clouds or nil,
  }, made, fault, facts)
end

-- Rendered elsewhere, so that what a request brings takes nothing from this vm.
local function with_templates(req)
  local name = req.params.event
  local known, refusal = notify.is_event(name)
  if not known then return problem.new(404, refusal .. ".") end
  local options, bad = options_of(req, "json")
  if not options then return bad end
  if options.format == "page" then
    return problem.new(400, "A page shows what is live: ask for json, html, text or eml.")
  end
  local files, malformed = templates_of(req)
  if not files then return malformed end
  local facts, no_build = facts_of(options, name)
  if no_build then return no_build end
  local made, failure = buildq.notifications.preview(name, { templates = files, facts = facts, cloud = options.cloud,
    channel = options.channel, recipient = options.recipient })
  local fault = failure and failure.message
  if made then made, fault = render(function() return made end) end
  return answer(options.format, { event = name }, made, fault, facts)
end

local function of_notification(req)
  local options, bad = options_of(req)
  if not options then return bad end
  local delivery = buildq.notifications.get(req.params.id)
  if not delivery then return problem.new(404, ("There is no notification %s."):format(req.params.id)) end
  local build = delivery.buildId ~= buildq.json.null and delivery.buildId or nil
  local facts = build and buildq.notifications.facts(build, delivery.event)
  if facts then delivery.build, delivery.customer, delivery.outboxData = facts.build, facts.customer, facts.data end
  local made, fault = render(message_of, delivery)
  return answer(options.format, {
    event = delivery.event, about = ("%s to %s, %s"):format(delivery.id, delivery.recipient, delivery.state),
    build = build, channel = delivery.channel, prefix = "../preview/",
  }, made, fault, facts)
end

local function generation()
  local here = buildq.generations.here()
  return reply.json { generation = here.current, held = here.held, fault = here.fault }
end

-- Before a generation goes live: a page that can't be drawn is found now. The mails themselves are notify's to check.
local function check_page()
  local shown = { event = "completed", about = "a sample", cloud = "aws", prefix = "", clouds = samples.clouds }
  local mail = { to = { name = "Name", address = "a@b.example" }, subject = "Subject", text = "Text", html = "" }
  local made = { mail = mail, bytes = "To: a@b.example\r\n\r\nText" }
  page.render("pages/preview.html", data_of(shown, made, nil, ""))
end

return {
  { method = "GET", path = "/notifications/preview/{event}", handle = of_event },
  { method = "POST", path = "/notifications/preview/{event}", handle = with_templates },
  { method = "GET", path = "/notifications/{id}/preview", handle = of_notification },
  { method = "GET", path = "/notifications/generation", handle = generation },
  check = check_page,
}
