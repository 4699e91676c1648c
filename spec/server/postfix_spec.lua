-- Mails through a real mail server: Debian's postfix, with TLS and a login, into a Maildir.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local postfix = require "spec.support.postfix"

if not postfix.available then
  describe("postfix", function() pending "is started by root only" end)
  return
end

describe("postfix", function()
  local mail_server, server
  lazy_setup(function()
    mail_server = postfix.start()
    server = Server.start { scripts = builds.scripts(), config = { BuildQueue = { PollIntervalSeconds = 1 },
      Email = mail_server:config() } }
  end)
  lazy_teardown(function() server:stop() end)

  local function await(count)
    server:wait_for(function() return mail_server:count() >= count end, 40,
      function() return "mails:\n" .. mail_server:log() .. server:sql "select state, last_reply from deliveries" end)
  end

  it("takes mails behind STARTTLS and a login, and delivers them", function()
    local name = "Zoë \"Z\" <script> 🏗 שלום"
    local id = builds.submit(server,
      { customerName = name, configurationName = "Köln 🗺", customerEmail = "zoe@example.org" })
    await(3)
    local by_event = {}
    for _, mail in ipairs(mail_server:mails()) do
      local event = mail.headers["message-id"]:match "%.(%a+)%."
      by_event[event] = mail
      assert.same({ { name = name, address = "zoe@example.org" } }, mail.to)
      assert.same({}, mail.defects)
      assert.same({ "utf-8" }, mail.charsets)
      assert.equal("zoe@example.org", mail.headers["delivered-to"])
      assert.is_truthy(mail.headers.received:find("ESMTPSA", 1, true), mail.headers.received)
      assert.is_truthy(mail.html:find(id, 1, true))
    end
    assert.equal("Completed: Köln 🗺", by_event.completed.headers.subject)
    assert.equal(by_event.queued.headers["message-id"], by_event.completed.headers.references)
    assert.is_truthy(server:sql "select last_reply from deliveries limit 1":find("queued as", 1, true))
  end)

  it("refuses a recipient, and says so", function()
    builds.submit(server, { customerEmail = "refused@example.org" })
    server:wait_for(function()
      return server:sql [[select count(*) from deliveries
        where recipient = 'refused@example.org' and state = 'dead']] == "3"
    end, 30)
    assert.is_truthy(server:sql "select max(last_reply) from deliveries where last_code = 550":find "no such user")
  end)

  it("is reached by TLS from the first byte on port 465", function()
    local before = mail_server:count()
    server.config.Email.SmtpServer, server.config.Email.SmtpPort = mail_server.second, 465
    server:write_config()
    server:kill "sighup"
    server:wait_for(function() return server:log():find("option=Email.SmtpPort", 1, true) end, 20)
    builds.submit(server)
    await(before + 3)
    local mails = mail_server:mails()
    assert.is_truthy(mails[#mails].headers.received:find("ESMTPSA", 1, true))
    server.config.Email.SmtpServer, server.config.Email.SmtpPort = "localhost", mail_server.port
  end)

  it("is asked for a login by check --connect", function()
    server:write_config()
    local check = server:command { "check", "--connect" }
    assert.equal(0, check.code, check.output .. check.errors)
    assert.is_truthy(check.output:find("mail server", 1, true), check.output)
    server.config.Email.SmtpPassword = "wrong-password"
    server:write_config()
    check = server:command { "check", "--connect" }
    assert.equal(1, check.code, check.output)
    assert.is_truthy((check.output .. check.errors):find("535", 1, true), check.output .. check.errors)
    assert.is_nil((check.output .. check.errors):find("wrong-password", 1, true))
  end)
end)
