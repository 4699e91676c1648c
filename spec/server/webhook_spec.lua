-- Slack, Teams, a signed webhook and a channel of the team's own, called by a whole server: what arrives, and what
-- becomes of a message that is refused, redirected, put off or left without an answer.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local json = require "spec.support.json"
local npm = require "spec.support.npm"
local process = require "spec.support.process"

local OLD <const> = "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk"
local NEW <const> = "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3"
local ALLOWED <const> = { "127.0.0.1" }

-- Where it is sent, and so what is answered, is the build's configurationName.
local PROBE <const> = [[
  return {
    events = { "completed" }, channel = "probe",
    deliver = function(event)
      local name = event.build.configurationName
      return name:find "^to " and { { channel = "probe", recipient = name } } or {}
    end,
    message = function(delivery)
      local url = delivery.recipient:match "^to (.*)" or "https://sample.example/" -- the latter at a reload
      return { http = { url = url, headers = { ["X-Token"] = { secret = "token" } },
        body = { build = delivery.build.id }, sign = { id = delivery.id, secrets = { "WebhookSecrets" } } } }
    end,
  }
]]

local missing = npm.missing()

describe("notifications by HTTP", function()
  if missing then return it("reach a server that verifies them", function() pending(missing) end) end

  local server, receiver, address, directory, trusted, stranger

  -- A receiver of its own that talks TLS, with a certificate that it has signed itself.
  local function secure_receiver(name)
    local cert, key = ("%s/%s.pem"):format(directory, name), ("%s/%s.key"):format(directory, name)
    process.check { "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
      "-days", "2", "-subj", "/CN=" .. name, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert }
    process.check { "chmod", "a+r", cert }
    return npm.spawn("webhook.mjs", OLD, cert, key)
  end

  local function address_of(child)
    return process.wait_for(function() return child.output:match "^([%d.:]+)\n" end, 30, "the receiver")
  end

  lazy_setup(function()
    receiver = npm.spawn("webhook.mjs", OLD)
    address = address_of(receiver)
    directory = process.directory()
    trusted, stranger = secure_receiver "trusted", secure_receiver "stranger"
    local secrets = process.directory()
    process.write(secrets .. "/token", "t0k3n-of-the-team\n")
    process.check { "chmod", "-R", "a+rX", secrets }
    local function at(path) return ("http://%s/%s"):format(address, path) end
    server = Server.start {
      scripts = builds.scripts { ["notifications/probe.lua"] = PROBE },
      config = {
        BuildQueue = { MaxRetryAttempts = 0, DeliveryRetrySeconds = 1, SecretsDirectory = secrets,
          TrustedCertificates = directory .. "/trusted.pem" },
        Notifications = {
          SlackWebhookUrl = at "slack/T0SECRET", TeamsWebhookUrl = at "teams/T0SECRET",
          WebhookUrl = at "webhook/T0SECRET", WebhookSecrets = { OLD }, AllowedNetworks = ALLOWED, TimeoutSeconds = 2,
        },
      },
    }
  end)
  lazy_teardown(function()
    if server then server:stop() end
    for _, child in ipairs { receiver, trusted, stranger } do child:kill "sigkill" end
  end)

  -- What the receiver got at a path, in order.
  local function received(path)
    local list = {}
    for line in receiver.output:gmatch "[^\n]+" do
      local request = json.decode(line)
      if type(request) == "table" and request.path == path then list[#list + 1] = request end
    end
    return list
  end

  local function of_build(path, id)
    local list = {}
    for _, request in ipairs(received(path)) do
      if request.body:find(id, 1, true) then list[#list + 1] = request end
    end
    return list
  end

  local function probe(url)
    return builds.submit(server, { configurationName = "to " .. url })
  end

  -- "state|code|reply" of the probe's delivery, once `pattern` is in it.
  local function outcome(id, pattern)
    local found
    server:wait_for(function()
      found = server:sql(("select state, coalesce(last_code, 0), coalesce(last_reply, reason, '') from deliveries "
        .. "where build_id = '%s' and channel = 'probe'"):format(id))
      return found:find(pattern)
    end, 30, function() return tostring(found) .. " to be " .. pattern end)
    return found
  end

  it("tell Slack, Teams and a webhook of a build, each what it is to be told", function()
    local id = builds.submit(server)
    server:wait_for(function() return #of_build("/webhook/T0SECRET", id) == 3 and #of_build("/slack/T0SECRET", id) == 1
      and #of_build("/teams/T0SECRET", id) == 1 end, 30, "the messages")
    local types, ids = {}, {}
    for _, request in ipairs(of_build("/webhook/T0SECRET", id)) do
      assert.is_true(request.verified, request.error)
      types[#types + 1] = request.event.type
      ids[request.id] = true
      assert.equal("application/json", request.type)
      assert.equal(id, request.event.data.id)
    end
    assert.same({ "build.queued", "build.started", "build.completed" }, types)
    assert.equal(3, #server:sql(("select id from deliveries where build_id = '%s' and channel = 'webhook'"):format(id))
      :gsub("[^\n]+", "x"):gsub("\n", ""))
    for webhook_id in pairs(ids) do
      assert.equal("1", server:sql(("select count(*) from deliveries where id = '%s'"):format(webhook_id)))
    end
    assert.truthy(json.decode(of_build("/slack/T0SECRET", id)[1].body).blocks)
    local card = json.decode(of_build("/teams/T0SECRET", id)[1].body).attachments[1].content
    assert.equal("AdaptiveCard", card.type)
  end)

  it("can be tried with a sample", function()
    for _, channel in ipairs { "slack", "teams", "webhook" } do
      local path = ("/%s/T0SECRET"):format(channel)
      local before = #received(path)
      local command = process.run { Server.program(), "mail", "send-test", channel, "--event", "failed",
        "--server", "http://" .. server.address }
      assert.equal(0, command.code, command.errors)
      server:wait_for(function() return #received(path) > before end, 20, channel)
      local requests = received(path)
      assert.truthy(requests[#requests].body:find("unknown type name", 1, true))
    end
    local answer = server:post("/notifications/test", { channel = "fax" })
    assert.equal(422, answer.status)
    assert.truthy(answer.body:find("no script serves the channel fax", 1, true), answer.body)
    answer = server:post("/notifications/test", { channel = "slack", event = "queued" })
    assert.equal(422, answer.status)
    assert.truthy(answer.body:find("tells slack of queued; is it configured?", 1, true), answer.body)
  end)

  it("show no URL and no secret anywhere", function()
    local id = probe(("http://%s/404"):format(address))
    outcome(id, "dead|404|")
    local listed = server:get("/notifications?build=" .. id)
    assert.equal(200, listed.status)
    assert.truthy(listed.body:find(address .. " #", 1, true), listed.body)
    local shown = server:get("/notifications/" .. listed.json.notifications[1].id)
    local rows = server:sql "select d::text from deliveries d"
    for _, text in ipairs { listed.body, shown.body, server:log(), rows, server:get("/metrics").body } do
      for _, secret in ipairs { "T0SECRET", OLD, "t0k3n-of-the-team" } do
        assert.falsy(text:find(secret, 1, true), secret)
      end
    end
  end)

  it("carry a signature of each secret while one is exchanged", function()
    local function last_of_build()
      local id = builds.submit(server)
      server:wait_for(function() return #of_build("/webhook/T0SECRET", id) == 3 end, 30, "the webhook")
      return of_build("/webhook/T0SECRET", id)[3]
    end
    local function secrets(list)
      server.config.Notifications.WebhookSecrets = list
      server:write_config()
      local before = select(2, server:log():gsub("Notifications%.WebhookSecrets", ""))
      server.child:kill "sighup"
      server:wait_for(function()
        return select(2, server:log():gsub("Notifications%.WebhookSecrets", "")) > before
      end, 20, "the new secrets")
    end
    secrets { NEW, OLD }
    assert.is_true(last_of_build().verified) -- the receiver still has the old one
    secrets { NEW }
    assert.is_false(last_of_build().verified)
    secrets { OLD }
  end)

  it("end for a recipient that answers 410, until it is enabled again", function()
    local url = ("http://%s/410"):format(address)
    outcome(probe(url), "^dead|410|127.0.0.1:%d+ answered 410")
    outcome(probe(url), "^skipped|")
    assert.equal(1, #received "/410")
    assert.equal("to " .. url, server:sql "select recipient from disabled_recipients where channel = 'probe'")
  end)

  it("come again when the server says so", function()
    local id = probe(("http://%s/429?after=120"):format(address))
    outcome(id, "^waiting|429|127.0.0.1:%d+ answered 429")
    assert.equal("t", server:sql(("select run_after - buildq_now() between '100 s' and '180 s' from deliveries "
      .. "where build_id = '%s' and channel = 'probe'"):format(id)))
  end)

  it("come again under the same id after a fault of the server", function()
    local id = probe(("http://%s/500"):format(address))
    server:wait_for(function() return #of_build("/500", id) >= 2 end, 30, "a second try")
    local tries = of_build("/500", id)
    assert.equal(tries[1].id, tries[2].id)
    assert.is_true(tries[2].verified)
    outcome(id, "^waiting|500|")
  end)

  it("go only to a server whose certificate is good", function()
    outcome(probe(("https://%s/"):format(address_of(trusted))), "^sent|200|")
    outcome(probe(("https://%s/"):format(address_of(stranger))), "^waiting|0|.*certificate")
    assert.falsy(stranger.output:find("verified", 1, true))
  end)

  it("follow no redirect", function()
    local id = probe(("http://%s/redirect/elsewhere"):format(address))
    outcome(id, "^dead|307|.*a redirect, which is not followed")
    assert.equal(0, #received "/elsewhere")
  end)

  it("go to no private address that is not allowed", function()
    outcome(probe "http://169.254.169.254/latest/meta-data", "^dead|0|.*169.254.169.254 is a link%-local address")
    outcome(probe "http://[::1]:1/", "^dead|0|.*::1 is a loopback address; Notifications.AllowedNetworks")
  end)

  it("wait no longer than they may, and go by the status", function()
    outcome(probe(("http://%s/hang"):format(address)), "^waiting|0|.*timed out")
    outcome(probe(("http://%s/slow"):format(address)), "^sent|200|")
  end)
end)
