-- Mails: how many a second the completed one renders, and how many reach a mail server, beside curl alone sending the
-- same bytes to the same recipients over one connection. The mail servers are postfix's smtp-sink, which does nothing
-- with what it takes, and postfix itself, behind STARTTLS and a login, which throws it away.
local uv = require "luv"
local json = require "dkjson"
local socket = require "socket"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local postfix = require "spec.support.postfix"
local process = require "spec.support.process"
local support = require "tests.bench.support"

local MAILS <const> = 2000
local RENDERS <const> = 300
local ROUNDS <const> = 3

-- A route that renders, some at a time, as the sender does: in the routes' vm, from facts to both parts.
local ROUTE <const> = [[
  local buildq = require "buildq"
  local notify, samples = require "notify", require "notify.samples"
  return { method = "GET", path = "/bench/render", handle = function(request)
    local made = samples.make("completed")
    local delivery = { id = "x", event = "completed", round = 1, attempt = 0, createdAt = made.createdAt, data = {},
      outboxData = made.data, build = made.build, customer = made.customer, channel = "email",
      recipient = made.customer.email, template = "completed", tries = 0 }
    local began = os.clock() -- of the processor: others on the machine don't count
    for _ = 1, tonumber(request.query.n) do assert(notify.message(delivery).mail.html) end
    return { json = { seconds = os.clock() - began } }
  end }
]]

-- The same by stock Lua: seconds for each.
local STOCK <const> = [[
  package.path = "./scripts/lib/?.lua;" .. package.path
  local NULL = io.stdout
  local function read(path)
    local file = io.open("templates/" .. path)
    local text = file and file:read "a"
    if file then file:close() end
    return text
  end
  package.loaded.buildq = {
    json = { null = NULL }, notifications = { unsubscribe_url = function() return nil end },
    config = { DownloadBaseUrl = "https://b.example/", ServerUrl = "http://127.0.0.1:1", MaxRetryAttempts = 3,
      BrandName = "Honua Server", BrandColor = "#2563c9", LogoUrl = "", SupportAddress = "", ReplyTo = "" },
    templates = { read = read, rules = function() return { "scripts/notifications/email.lua" } end,
      load_rule = function(path) return dofile(path) end },
  }
  local notify, samples = require "notify", require "notify.samples"
  local made = samples.make("completed")
  local delivery = { id = "x", event = "completed", round = 1, attempt = 0, createdAt = made.createdAt, data = {},
    outboxData = made.data, build = made.build, customer = made.customer, channel = "email",
    recipient = made.customer.email, template = "completed", tries = 0 }
  notify.message(delivery)
  local began, count = os.clock(), 200
  for _ = 1, count do assert(notify.message(delivery).mail.html) end
  print((os.clock() - began) / count)
]]

local function renders(server, report)
  local get, times = support.client(server.address), {}
  get "/bench/render?n=1"
  for i = 1, RENDERS do
    local status, body = get "/bench/render?n=4" -- well below what a route may compute
    assert(status == 200, status)
    times[i] = json.decode(body).seconds / 4
  end
  local ours = 1 / support.median(times)
  local stock = 1 / tonumber(process.check { "lua5.4", "-e", STOCK })
  report { group = "mail", name = "renders of the completed mail", value = ours, unit = "/s", beside = "stock Lua",
    limit = stock, ratio = ours / stock, aim = 0.7, better = "higher" }
end

local function start_sink()
  local probe = assert(socket.bind("127.0.0.1", 0))
  local _, port = probe:getsockname()
  probe:close()
  local child = process.spawn { "/usr/sbin/smtp-sink", "-u", "nobody", "127.0.0.1:" .. port, "256" }
  process.wait_for(function()
    local connection = socket.connect("127.0.0.1", tonumber(port))
    if connection then connection:close() end
    return connection
  end, 10, "smtp-sink")
  return tonumber(port), child
end

-- Mails a second of curl, which keeps its connection from one to the next. `email` is the section of the server.
local function curl_alone(email, file, directory)
  local block = ('url="smtp://%s:%d"\nmail-from="builds@honua.example"\nupload-file="%s"\n'):format(email.SmtpServer,
    email.SmtpPort, file)
  if email.UseSsl then
    block = block .. ('ssl-reqd\ncacert="%s"\nuser="%s:%s"\n'):format(email.CaFile, email.SmtpUsername,
      email.SmtpPassword)
  end
  local all = {}
  for n = 1, MAILS do all[n] = ('%smail-rcpt="c%d@example.org"\n'):format(block, n) end
  process.write(directory .. "/curl", table.concat(all, "next\n"))
  local began = uv.hrtime()
  process.check({ "curl", "-sS", "-K", directory .. "/curl" }, { seconds = 240 })
  return MAILS / ((uv.hrtime() - began) / 1e9)
end

-- What waits is sent: mails a second, from the first to the last.
local function ours(server)
  server:sql "update deliveries set state = 'waiting', tries = 0, run_after = now(), sent_at = null, ended_at = null"
  server:launch()
  server:wait_for(function()
    return server:sql "select count(*) from deliveries where state = 'sent'" == tostring(MAILS)
  end, 120)
  server:stop()
  local seconds = server:sql "select extract(epoch from max(sent_at) - min(sent_at)) from deliveries"
  return MAILS / tonumber(seconds)
end

return function(report)
  local server = Server.start { scripts = builds.scripts { ["routes/bench_render.lua"] = ROUTE },
    config = { Email = { FromAddress = "builds@honua.example" } } }
  renders(server, report)
  if not support.has "smtp-sink" then return "postfix is not installed: no smtp-sink" end
  -- They wait, and are pending for ever: only the mail "queued" is owed.
  server:post("/queue/pause", { reason = "bench" })
  server:sql(([[insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,
    tier, architecture, cloud_provider) select 'c', 'Customer', 'c' || n || '@example.org', 'main', 'm.json', 'pro',
    'linux-x64', 'aws' from generate_series(1, %d) n]]):format(MAILS))
  server:wait_for(function()
    return server:sql "select count(*) from deliveries where state = 'sent'" == tostring(MAILS)
  end, 120)
  server:stop()
  local outbox = server.directory .. "/state/outbox/"
  local file = server.directory .. "/mail.eml"
  process.check { "sh", "-c", ("cp \"$(ls %s*.eml | head -n 1)\" %s && rm -r %s"):format(outbox, file, outbox) }
  local function compare(name, email, aim)
    for key, value in pairs(email) do server.config.Email[key] = value end
    server:write_config()
    local ratios, figures, limits = {}, {}, {}
    for round = 1, ROUNDS do
      limits[round] = curl_alone(server.config.Email, file, server.directory)
      figures[round] = ours(server)
      ratios[round] = figures[round] / limits[round]
    end
    report { group = "mail", name = "mails to " .. name, value = support.median(figures), unit = "/s",
      beside = "curl alone, one connection, the same bytes", limit = support.median(limits),
      ratio = support.median(ratios), aim = aim, better = "higher" }
  end
  local port, sink = start_sink()
  compare("smtp-sink", { SmtpServer = "127.0.0.1", SmtpPort = port, UseSsl = false }, 0.8)
  sink:kill "sigkill"
  sink:wait()
  if not postfix.available then return "postfix is started by root only" end
  compare("postfix, TLS, login", postfix.start({ discard = true }):config { SmtpPassword = "secret-enough" }, 0.8)
end
