-- Mails as a mail server gets them: what they say, the login, and what follows when the server misbehaves.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local smtp = require "spec.support.smtp"

-- Retries come at once, so that a spec sees them.
local QUICK <const> = { DeliveryRetrySeconds = 1, DeliveryRetryMaxSeconds = 1, PollIntervalSeconds = 1 }

local function start(sink, email, queue)
  local all = {}
  for name, value in pairs(QUICK) do all[name] = value end
  for name, value in pairs(queue or {}) do all[name] = value end
  return Server.start { scripts = builds.scripts(), config = { BuildQueue = all, Email = sink:config(email) } }
end

local function mails_of(sink, event)
  local list = {}
  for _, mail in ipairs(sink:mails()) do
    if mail.headers["message-id"]:find("%." .. event .. "%.") then list[#list + 1] = mail end
  end
  return list
end

local function await_mail(server, sink, event, count)
  server:wait_for(function() return #mails_of(sink, event) >= (count or 1) end, 30, "the mail " .. event)
  return mails_of(sink, event)
end

local function await_state(server, event, state)
  local query = ("select count(*) from deliveries where event = '%s' and state = '%s'"):format(event, state)
  server:wait_for(function() return server:sql(query) ~= "0" end, 30, function()
    return "a delivery that is " .. state .. ":\n" .. server:sql "select * from deliveries"
  end)
end

describe("a mail", function()
  local sink, server
  lazy_setup(function()
    sink = smtp.sink()
    server = start(sink, { FromName = "Hönua \"Builds\" 🏗", ReplyTo = "help@honua.example" })
  end)
  lazy_teardown(function() server:stop() end)

  it("says what it should, field by field", function()
    local id = builds.submit(server, { customerName = "Ada Lovelace", customerEmail = "ada@example.org" })
    local mail = await_mail(server, sink, "completed")[1]
    assert.same({ { name = "Ada Lovelace", address = "ada@example.org" } }, mail.to)
    assert.same({ { name = "Hönua \"Builds\" 🏗", address = "builds@honua.example" } }, mail.from)
    assert.equal("builds@honua.example", mail.sender)
    assert.same({ "ada@example.org" }, mail.recipients)
    assert.equal("Completed: main", mail.headers.subject)
    assert.equal("help@honua.example", mail.headers["reply-to"])
    assert.equal("auto-generated", mail.headers["auto-submitted"])
    assert.equal("multipart/alternative", mail.type)
    assert.same({ "utf-8" }, mail.charsets)
    assert.same({}, mail.defects)
    assert.is_true(mail.longest <= 998)
    assert.is_truthy(mail.text:find(id, 1, true))
    assert.is_truthy(mail.html:find(id, 1, true))
    local queued = await_mail(server, sink, "queued")[1]
    assert.equal(queued.headers["message-id"], mail.headers["in-reply-to"])
    assert.equal(queued.headers["message-id"], mail.headers.references)
    assert.is_nil(queued.headers["in-reply-to"])
    local pattern = "^<" .. id:gsub("%-", "%%-") .. "%.completed%.1%.0%.%x+@honua.example>$"
    assert.is_truthy(mail.headers["message-id"]:find(pattern))
  end)

  local NAMES <const> = {
    "Zoë Ünïcode", "日本語の名前", "👩‍👩‍👧‍👦 family", "שלום עולם", "مرحبا", 'Quote " and \\ backslash',
    "<script>alert(1)</script>", "comma, semicolon; colon:", "=?utf-8?q?encoded?=", ("x"):rep(255), ("ä"):rep(255),
    "trailing space ", "a@b <c@d>",
  }
  for index, name in ipairs(NAMES) do
    it("keeps the name " .. name:sub(1, 30), function()
      local address = ("name%d@example.org"):format(index)
      builds.submit(server, { customerName = name, customerEmail = address, configurationName = name })
      local mail
      server:wait_for(function()
        for _, each in ipairs(mails_of(sink, "queued")) do
          if each.recipients[1] == address then mail = each end
        end
        return mail
      end, 30, "the mail")
      local function squeezed(text) return (text:gsub("%s+", " "):gsub("^ ", ""):gsub(" $", "")) end
      name = name:gsub("=%?", "~?") -- what looks encoded would be decoded
      assert.equal(squeezed(name), squeezed(mail.to[1].name))
      assert.equal(address, mail.to[1].address)
      assert.equal(1, #mail.to)
      assert.equal(squeezed("Queued: " .. name), squeezed(mail.headers.subject))
      assert.is_nil(mail.html:find("<script>", 1, true))
      assert.same({}, mail.defects)
      assert.is_true(mail.longest <= 998)
    end)
  end

  it("has no header that a name brings along", function()
    local before = #mails_of(sink, "queued")
    server:sql [[insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,
      tier, architecture, cloud_provider) values ('c', E'Eve\r\nBcc: all@example.org\r\n\r\nbody', 'eve@example.org',
      E'x\r\nX-Evil: 1\r\n\r\n<b>', 'no.json', 'pro', 'any', 'aws')]]
    local mail
    server:wait_for(function()
      for _, each in ipairs(mails_of(sink, "queued")) do
        if each.recipients[1] == "eve@example.org" then mail = each end
      end
      return mail
    end, 30, "the mail")
    assert.equal(before + 1, #mails_of(sink, "queued"))
    assert.same({ "eve@example.org" }, mail.recipients)
    assert.is_nil(mail.headers.bcc)
    assert.is_nil(mail.headers["x-evil"])
    assert.equal("multipart/alternative", mail.type)
    assert.same({}, mail.defects)
  end)

  it("goes to no address that can't be one, and that is shown", function()
    server:sql [[insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,
      tier, architecture, cloud_provider) values ('c', 'n', E'a@b.example>\r\nRCPT TO:<all@example.org', 'x', 'no.json',
      'pro', 'any', 'aws')]]
    await_state(server, "queued", "dead")
    assert.is_truthy(server:sql "select last_reply from deliveries where state = 'dead'":find "is no mail address")
  end)
end)

describe("the login", function()
  local certificate
  lazy_setup(function() certificate = smtp.certificate() end)

  local function sent(sink, email)
    local server = start(sink, email)
    builds.submit(server)
    local mail = await_mail(server, sink, "completed")[1]
    server:stop()
    return mail
  end

  it("is made behind STARTTLS, and one connection carries several mails", function()
    local sink = smtp.sink { cert = certificate.cert, key = certificate.key, ca = certificate.ca, user = "u@x",
      password = "geheim 1" }
    local mail = sent(sink)
    assert.is_true(mail.tls)
    assert.equal("u@x", mail.login)
    local connections = {}
    for _, each in ipairs(sink:mails()) do connections[each.connection] = true end
    local count = 0
    for _ in pairs(connections) do count = count + 1 end
    assert.is_true(count < #sink:mails(), ("%d connections for %d mails"):format(count, #sink:mails()))
    sink:stop()
  end)

  it("uses a token that a command gives", function()
    local sink = smtp.sink { cert = certificate.cert, key = certificate.key, ca = certificate.ca, user = "u@x",
      token = "bearer-123456" }
    local mail = sent(sink, { OAuthToken = "command:echo bearer-123456" })
    assert.equal("XOAUTH2", mail.mechanism)
    sink:stop()
  end)

  it("goes with a token by the standard's mechanism where that is offered (RFC 7628)", function()
    for _, mechanisms in ipairs { { "OAUTHBEARER" }, { "XOAUTH2", "OAUTHBEARER" } } do
      local sink = smtp.sink { cert = certificate.cert, key = certificate.key, ca = certificate.ca, user = "u@x",
        token = "bearer-123456", mechanisms = mechanisms }
      local mail = sent(sink, { OAuthToken = "command:echo bearer-123456" })
      assert.equal("OAUTHBEARER", mail.mechanism)
      sink:stop()
    end
  end)

  it("that is refused kills no mail", function()
    local sink = smtp.sink { user = "u", password = "right" }
    local server = start(sink, { SmtpPassword = "wrong-password" })
    builds.submit(server)
    server:wait_for(function() return server:sql "select count(*) from deliveries where tries > 1" ~= "0" end, 30)
    assert.equal("0", server:sql "select count(*) from deliveries where state = 'dead'")
    assert.equal("535", server:sql "select distinct last_code from deliveries where last_code is not null")
    assert.is_nil(server:log():find("wrong-password", 1, true))
    server.config.Email.SmtpPassword = "right"
    server:write_config()
    server:kill "sighup"
    await_mail(server, sink, "completed")
    server:stop()
    sink:stop()
  end)

  it("is not made on a connection that can't be encrypted, or to a server with another name", function()
    local plain = smtp.sink()
    local server = start(plain, { UseSsl = true })
    builds.submit(server)
    server:wait_for(function() return server:sql "select count(*) from deliveries where tries > 0" ~= "0" end, 30)
    server:stop()
    assert.equal(0, #plain:mails())
    plain:stop()
    local other = smtp.certificate "DNS:mail.other.example"
    local wrong = smtp.sink { cert = other.cert, key = other.key, ca = other.ca }
    server = start(wrong)
    builds.submit(server)
    server:wait_for(function()
      return server:sql "select count(*) from deliveries where last_reply ilike '%certificate%'" ~= "0"
    end, 30, function() return server:sql "select last_reply from deliveries" end)
    server:stop()
    assert.equal(0, #wrong:mails())
    wrong:stop()
  end)
end)

describe("a mail server that", function()
  local sink, server
  lazy_setup(function()
    sink = smtp.sink()
    server = start(sink, { TimeoutSeconds = 2 })
  end)
  lazy_teardown(function() server:stop() end)
  after_each(function() sink:plan {} end)

  -- The queued mail of a build whose first try met `action` at `stage`, and its row.
  local function first_try_meets(stage, action)
    sink:plan { { stage = stage, action = action, times = 1 } }
    local address = ("%s%d@example.org"):format(stage, math.random(1 << 40))
    builds.submit(server, { customerEmail = address })
    server:wait_for(function()
      return server:sql(("select count(*) from deliveries where recipient = '%s' and state in ('sent', 'dead')")
        :format(address)) == "3"
    end, 40, function() return server:sql "select event, state, tries, last_reply from deliveries" end)
    local rows = server:rows(("select event, state, tries, last_code, last_reply, attempts from deliveries where "
      .. "recipient = '%s' order by id"):format(address))
    local hit
    for _, row in ipairs(rows) do
      if row.attempts[1].outcome ~= "sent" then hit = row end
    end
    return hit, address, rows
  end

  for _, stage in ipairs { "connect", "ehlo", "mail", "rcpt", "data", "body" } do
    for _, action in ipairs { "hang", "drop", "451 4.3.0 later", "421 4.3.2 going away" } do
      it(("answers %s at %s gets the mail later"):format(action, stage), function()
        local hit, _, rows = first_try_meets(stage, action)
        for _, row in ipairs(rows) do assert.equal("sent", row.state) end
        -- No new connection may have been needed; and libcurl asks again when one that it kept has gone.
        if stage ~= "connect" and stage ~= "ehlo" and action ~= "drop" then assert.is_table(hit, "no try was hit") end
        if hit then
          assert.equal("retry", hit.attempts[1].outcome)
          if action:find "^4" then assert.equal(tonumber(action:sub(1, 3)), hit.attempts[1].code) end
        end
      end)
    end
  end

  for _, stage in ipairs { "mail", "rcpt", "data", "body" } do
    it("refuses for good at " .. stage .. " is asked no more, and its words are kept", function()
      local hit = first_try_meets(stage, "550 5.1.1 <nobody>: no such user Ünï")
      assert.equal("dead", hit.state)
      assert.equal(1, hit.tries)
      assert.equal(550, hit.last_code)
      assert.equal("5.1.1 <nobody>: no such user Ünï", hit.last_reply)
    end)
  end

  it("refuses one recipient gets the mails of the others", function()
    sink:plan { { stage = "rcpt", action = "550 5.1.1 no", recipient = "bad@" },
      { stage = "rcpt", action = "450 4.2.0 greylisted", recipient = "grey@" } }
    for _, name in ipairs { "bad", "grey", "good" } do
      builds.submit(server, { customerEmail = name .. "@example.org" })
    end
    server:wait_for(function()
      return server:sql "select count(*) from deliveries where recipient = 'good@example.org' and state = 'sent'" == "3"
    end, 30)
    assert.equal("3", server:sql [[select count(*) from deliveries
      where recipient = 'bad@example.org' and state = 'dead']])
    sink:plan {}
    server:wait_for(function()
      return server:sql "select count(*) from deliveries where recipient = 'grey@example.org' and state = 'sent'" == "3"
    end, 30)
  end)

  it("loses its reply gets the mail once more, with the same Message-ID", function()
    local _, address = first_try_meets("body", "keep-drop")
    local ids = {}
    for _, mail in ipairs(sink:mails()) do
      if mail.recipients[1] == address then
        local id = mail.headers["message-id"]
        ids[id] = (ids[id] or 0) + 1
      end
    end
    local count, twice = 0, 0
    for _, times in pairs(ids) do
      count = count + 1
      if times == 2 then twice = twice + 1 end
      assert.is_true(times <= 2)
    end
    assert.equal(3, count)
    assert.equal(1, twice)
  end)

  it("hangs behind the end of a mail stops nothing else", function()
    local patient = start(sink, { TimeoutSeconds = 60 }, { MaxConcurrentDeliveries = 2 })
    sink:plan { { stage = "body", action = "hang", recipient = "stuck@", times = 1 } }
    builds.submit(patient, { customerEmail = "stuck@example.org" })
    patient:wait_for(function()
      return patient:sql "select count(*) from deliveries where state = 'sending'" == "1"
    end, 30)
    local id = builds.submit(patient, { customerEmail = "free@example.org" })
    builds.await(patient, id, "success")
    patient:wait_for(function()
      return patient:sql [[select count(*) from deliveries
        where recipient = 'free@example.org' and state = 'sent']] == "3"
    end, 20)
    assert.equal("1", patient:sql "select count(*) from deliveries where state = 'sending'")
    local before = require("luv").hrtime()
    patient:stop(20)
    assert.is_true(require("luv").hrtime() - before < 15e9) -- what is under way gets a short time
    assert.equal("1", patient:sql "select count(*) from deliveries where state = 'sending'")
    patient:launch() -- takes it over
    patient:wait_for(function()
      return patient:sql "select count(*) from deliveries where state = 'sent'" == "6"
    end, 30, function() return patient:sql "select event, state, attempts from deliveries" end)
    patient:stop()
  end)

  it("speaks one byte a second holds up no build and no other mail", function()
    local slow = smtp.sink { slow = 1 }
    local other = start(slow, { TimeoutSeconds = 2 })
    local id = builds.submit(other)
    builds.await(other, id, "success")
    other:wait_for(function() return other:sql "select count(*) from deliveries where tries > 0" ~= "0" end, 30)
    assert.equal(200, other:get("/healthz").status)
    other:stop()
    slow:stop()
  end)
end)
