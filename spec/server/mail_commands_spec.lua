-- buildq mail and buildq unsubscribe, against a real server; previews also without one.
local json = require "dkjson"
local process = require "spec.support.process"
local smtp = require "spec.support.smtp"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

local NOWHERE <const> = "00000000-0000-7000-8000-00000000ffff"

describe("buildq mail preview", function()
  local here, copies

  -- No server runs.
  setup(function()
    here = Server.new {
      database = false, config = { Email = { FromAddress = "builds@acme.example", BrandName = "Acme Builds" } },
    }
    copies = process.directory()
    process.check { "mkdir", copies .. "/email" }
  end)

  local function preview(...) return here:command { "mail", "preview", ... } end

  it("prints headers and text of a sample", function()
    local done = preview "failed"
    assert.equal(0, done.code, done.errors)
    assert.equal("", done.errors)
    assert.matches("From: Honua Server <builds@acme.example>\nTo: Acme Geo GmbH <ops@acme.example>\n", done.output, 1,
      true)
    assert.matches("\nSubject: Failed: Köln tiles – production\n\n", done.output, 1, true)
    assert.matches("make: *** [Makefile:42: build/tiles.o] Error 1", done.output, 1, true)
    assert.matches("gcloud", preview("completed", "--cloud", "gcp").output)
  end)

  it("writes the HTML, or gives everything as JSON", function()
    local path = copies .. "/mail.html"
    local done = preview("queued", "--html", path)
    assert.equal(0, done.code, done.errors)
    local html = process.read(path)
    assert.matches("<!DOCTYPE html>", html, 1, true)
    assert.matches("Acme Builds", html, 1, true)
    assert.equal(html, preview("queued", "--html", "-").output)
    local answer = json.decode(preview("queued", "--json", "--recipient", "me@b.example").output)
    assert.equal(html, answer.mail.html)
    assert.equal("me@b.example", answer.mail.to.address)
    assert.equal(1, preview("queued", "--html", copies .. "/no/such/place").code)
  end)

  it("shows what a chat is sent, with its URL's name only", function()
    local done = preview("failed", "--channel", "slack")
    assert.equal(0, done.code, done.errors)
    assert.matches("no script of scripts/notifications sends failed by slack", done.errors, 1, true)
    assert.equal("SlackWebhookUrl", json.decode(done.output).url.secret)
    assert.equal("header", json.decode(done.output).body.blocks[1].type)
    assert.equal(1, preview("failed", "--channel", "fax").code)
    assert.equal(1, preview("failed", "--channel", "slack", "--html", "-").code)
  end)

  it("is of a copy of the templates, before it goes live", function()
    process.write(copies .. "/email/queued.txt", "Mine: {{ build.tier }}\n")
    local done = preview("queued", "--templates", copies)
    assert.equal(0, done.code, done.errors)
    assert.matches("\nMine: enterprise\n", done.output, 1, true)
    assert.falsy(preview("queued").output:find("Mine", 1, true))
    process.write(copies .. "/email/queued.txt", "one\n{{ build.teir }}\n")
    done = preview("queued", "--templates", copies)
    assert.equal(1, done.code)
    assert.matches("buildq: templates/email/queued.txt:2: there is no build.teir", done.errors, 1, true)
    -- A fault in one is none of another's business.
    assert.equal(0, preview("started", "--templates", copies).code)
    assert.matches("no/such", preview("queued", "--templates", copies .. "/no/such").errors, 1, true)
  end)

  it("says when no script sends it, and what there is", function()
    local nobody = "return { events = {}, deliver = function() return {} end }"
    here:write("scripts", { ["notifications/email.lua"] = nobody })
    local done = preview "queued"
    assert.equal(0, done.code)
    assert.matches("no script of scripts/notifications sends queued by email", done.errors, 1, true)
    process.check { "rm", here.directory .. "/scripts/notifications/email.lua" }
    done = preview "quued"
    assert.equal(2, done.code)
    assert.matches("there is no event quued; there are queued, started", done.errors, 1, true)
  end)

  it("takes no options of others, and an event", function()
    for _, wrong in ipairs { { "preview" }, { "preview", "queued", "--state", "sent" }, { "show" }, { "list", "x" },
      { "requeue", "x", "--html", "y" }, { "shwo", "x" }, {}, { "list", "--limit", "0" } } do
      assert.equal(2, here:command({ "mail", table.unpack(wrong) }).code, table.concat(wrong, " "))
    end
    assert.equal(3, here:command({ "mail", "list", "--server", "http://127.0.0.1:1" }).code)
  end)
end)

describe("buildq mail", function()
  local server, build

  setup(function()
    server = Server.start { scripts = builds.scripts() }
    build = builds.run(server, { customerEmail = "who@c.example", configurationName = "nightly" })
    server:sql(([[insert into deliveries (id, build_id, event, customer_id, channel, recipient, template, state,
        run_after, last_code, last_reply, attempts)
      values ('00000000-0000-7000-8000-000000000001', '%s', 'completed', 'c1', 'email', 'dead@c.example', 'completed',
        'dead', now() + interval '1 day', 550, E'5.1.1 no\x1b[31m such user',
        '[{"at": "2026-01-01T00:00:00Z", "outcome": "dead", "code": 550, "reply": "5.1.1 no such user"}]')]])
      :format(build.id))
  end)

  teardown(function()
    if server then server:stop() end
  end)

  local function ask(...)
    local words = { ... }
    words[#words + 1], words[#words + 2] = "--server", "http://" .. server.address
    return server:command { "mail", table.unpack(words) }
  end

  it("lists and shows what has become of each, with the server's words but not its escapes", function()
    local listed = ask("list", "--state", "dead")
    assert.equal(0, listed.code, listed.errors)
    assert.matches("^ID +STATE", listed.output)
    assert.matches("00000001 +dead .* completed +email +dead@c%.example +5%.1%.1 no", listed.output)
    assert.falsy(listed.output:find("\27", 1, true))
    assert.equal(4, ask("show", NOWHERE).code)
    local shown = ask("show", "00000000-0000-7000-8000-000000000001")
    assert.matches("lastCode +550\n", shown.output)
    assert.matches("\n  2026%-01%-01T00:00:00Z dead +550 5%.1%.1 no such user\n", shown.output)
    local answer = json.decode(ask("show", "00000000-0000-7000-8000-000000000001", "--json").output)
    assert.equal(550, answer.attempts[1].code)
    local line = json.decode(ask("list", "--build", build.id, "--state", "dead", "--json").output)
    assert.equal("dead@c.example", line.recipient)
  end)

  it("previews a build, with other templates too", function()
    local done = ask("preview", "completed", "--build", build.id)
    assert.equal(0, done.code, done.errors)
    assert.matches("To: Customer <who@c.example>\n", done.output, 1, true)
    assert.matches("Subject: Completed: nightly\n", done.output, 1, true)
    local copies = process.directory()
    process.check { "mkdir", copies .. "/email" }
    process.write(copies .. "/email/completed.txt", "For {{ customer.email }}\n")
    done = ask("preview", "completed", "--build", build.id, "--templates", copies)
    assert.matches("\nFor who@c.example\n", done.output, 1, true)
    assert.equal(4, ask("preview", "completed", "--build", NOWHERE).code)
  end)

  it("tries again, and cancels", function()
    local id = "00000000-0000-7000-8000-000000000001"
    local done = ask("requeue", id)
    assert.equal(0, done.code, done.errors)
    assert.equal(id .. " waiting: completed to dead@c.example\n", done.output)
    assert.equal(4, ask("requeue", NOWHERE).code)
    server:sql(("update deliveries set state = 'sent' where id = '%s'"):format(id))
    done = ask("requeue", id)
    assert.equal(5, done.code)
    assert.matches("resend", done.errors, 1, true)
    assert.equal(0, ask("requeue", id, "--resend").code)
    server:sql(("update deliveries set state = 'waiting', run_after = now() + interval '1 day' where id = '%s'")
      :format(id))
    assert.matches("cancelled: completed", ask("cancel", id).output)
    assert.equal(5, ask("cancel", id).code)
  end)

  it("sends a test", function()
    local done = ask("send-test", "me@b.example", "--event", "failed", "--json")
    assert.equal(0, done.code, done.errors)
    local answer = json.decode(done.output)
    assert.equal("me@b.example", answer.recipient)
    assert.is_true(json.decode(ask("show", answer.id, "--json").output).test)
    local function sent()
      local shown = json.decode(ask("show", answer.id, "--json").output)
      return shown.state == "sent" and shown
    end
    local first = server:wait_for(sent, 30, "the test to be sent")
    -- There is no mail server: it is a file.
    local mail = process.read(first.lastReply)
    assert.matches("\r\nTo: me@b%.example\r\n", mail)
    assert.falsy(mail:find("List-Unsubscribe", 1, true))
    assert.equal(0, ask("requeue", answer.id, "--resend").code)
    local second = server:wait_for(sent, 30, "the test to be sent again")
    assert.not_equal(first.messageId, second.messageId)
    assert.not_equal(first.lastReply, second.lastReply)
    assert.equal(2, #second.attempts)
    assert.equal(0, ask("send-test", "me@b.example", "--build", build.id).code)
    assert.equal(4, ask("send-test", "me@b.example", "--build", NOWHERE).code)
    assert.equal(1, ask("send-test", "nobody").code)
  end)
end)

describe("buildq mail with a mail server", function()
  local sink, server

  setup(function()
    sink = smtp.sink()
    local mail = sink:config { UnsubscribeUrl = "http://b.example/u", UnsubscribeSecret = ("k"):rep(32) }
    server = Server.start { scripts = builds.scripts(), config = { Email = mail } }
  end)

  teardown(function()
    if server then server:stop() end
  end)

  local function ask(...)
    local words = { ... }
    words[#words + 1], words[#words + 2] = "--server", "http://" .. server.address
    return server:command { "mail", table.unpack(words) }
  end

  it("shows what it has refused, tries again when asked to, and sends anew", function()
    sink:plan { { stage = "rcpt", action = "550 5.1.1 no such user", recipient = "typo@" } }
    local id = json.decode(ask("send-test", "typo@example.org", "--event", "failed", "--json").output).id
    local function state()
      return json.decode(ask("show", id, "--json").output).state
    end
    server:wait_for(function() return state() == "dead" end, 30, "the mail to be refused")
    local shown = ask("show", id).output
    assert.matches("lastCode +550\n", shown)
    assert.matches("\n  %S+Z dead +550 [^\n]*no such user", shown)
    assert.matches("no such user", ask("list", "--state", "dead").output)
    sink:plan {}
    assert.equal(0, ask("requeue", id).code)
    server:wait_for(function() return state() == "sent" end, 30, "the mail to be sent")
    assert.equal(5, ask("cancel", id).code)
    assert.equal(0, ask("requeue", id, "--resend").code)
    server:wait_for(function() return #sink:mails() == 2 and state() == "sent" end, 30, "two mails")
    local mails = sink:mails()
    assert.equal("typo@example.org", mails[1].recipients[1])
    assert.matches("build/tiles.o", mails[1].text, 1, true)
    assert.not_equal(mails[1].headers["message-id"], mails[2].headers["message-id"])
  end)

  it("sends a link that is no one-click link when it is not https", function()
    builds.submit(server, { customerEmail = "plain@example.org" })
    local function of_build()
      for _, mail in ipairs(sink:mails()) do
        if mail.recipients[1] == "plain@example.org" then return mail end
      end
    end
    local headers = server:wait_for(of_build, 30, "a mail about the build").headers
    assert.matches("^<http://b%.example/u%?token=", headers["list-unsubscribe"])
    assert.is_nil(headers["list-unsubscribe-post"])
  end)
end)

describe("buildq unsubscribe", function()
  local server

  setup(function() server = Server.start { scripts = builds.scripts() } end)

  teardown(function()
    if server then server:stop() end
  end)

  local function ask(...)
    local words = { ... }
    words[#words + 1], words[#words + 2] = "--server", "http://" .. server.address
    return server:command { "unsubscribe", table.unpack(words) }
  end

  it("adds, lists and removes", function()
    local done = ask("add", "--customer", "acme", "--event", "started", "--reason", "too many")
    assert.equal(0, done.code, done.errors)
    assert.equal("unsubscribed\n", done.output)
    assert.equal(0, ask("add", "--recipient", "Ops@Acme.example").code)
    local listed = ask("list").output
    assert.matches("acme +any +started +email +command +%S+ +too many\n", listed)
    assert.matches("any +ops@acme%.example +all +email +command", listed)
    assert.equal(1, #json.decode(ask("list", "--customer", "acme", "--json").output).suppressions)
    assert.equal("subscribed again\n", ask("remove", "--customer", "acme", "--event", "started").output)
    assert.equal(4, ask("remove", "--customer", "acme", "--event", "started").code)
    assert.falsy(ask("list").output:find("acme +any"))
  end)

  it("is heeded: one event of one customer is skipped, the others go out", function()
    assert.equal(0, ask("add", "--customer", "quiet", "--event", "started").code)
    builds.run(server, { customerId = "quiet", customerEmail = "q@q.example" })
    local function states()
      local list = {}
      for _, row in ipairs(server:get("/notifications?customerId=quiet").json.notifications) do
        list[#list + 1] = row.event .. " " .. row.state
      end
      table.sort(list)
      return table.concat(list, ", ")
    end
    server:wait_for(function() return states() == "completed sent, queued sent, started skipped" end, 30, states)
  end)

  it("lets messages go again to who was gone", function()
    server:sql "insert into disabled_recipients values ('webhook', 'x.example #1', '410 Gone')"
    assert.matches("x%.example #1 +all +webhook +gone", ask("list").output)
    assert.equal("enabled\n", ask("enable", "--channel", "webhook", "--recipient", "x.example #1").output)
    assert.equal(4, ask("enable", "--channel", "webhook", "--recipient", "x.example #1").code)
  end)

  it("wants to know who", function()
    for _, wrong in ipairs { {}, { "add" }, { "add", "--event", "queued" }, { "list", "--event", "queued" }, { "sub" },
      { "remove", "--customer", "a", "--reason", "b" }, { "enable", "--channel", "x" } } do
      assert.equal(2, ask(table.unpack(wrong)).code, table.concat(wrong, " "))
    end
    assert.equal(1, ask("add", "--customer", "a", "--event", "quued").code)
  end)
end)
