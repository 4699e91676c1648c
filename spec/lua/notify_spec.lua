-- Notifications: every event's mail with the shipped templates, hostile names, sizes, rules and their faults.
local NULL <const> = io.stdout

local extra, overlay -- rules by path, templates by path
local unsubscribe_url -- of all mails

local function read(path)
  if overlay[path] then return overlay[path] end
  local file = io.open("templates/" .. path)
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

local function load_notify()
  for name in pairs(package.loaded) do
    if name:find "^notify" or name == "buildq" then package.loaded[name] = nil end
  end
  package.loaded.buildq = {
    json = { null = NULL, array = function(list) return setmetatable(list, { __jsontype = "array" }) end },
    config = {
      DownloadBaseUrl = "https://builds.example/", ServerUrl = "http://127.0.0.1:1", MaxRetryAttempts = 3,
      BrandName = "Acme <Maps>", BrandColor = "#2563c9", LogoUrl = "", SupportAddress = "", ReplyTo = "",
    },
    notifications = { unsubscribe_url = function() return unsubscribe_url end },
    templates = {
      read = read,
      rules = function()
        local list = { "scripts/notifications/email.lua" }
        for path in pairs(extra) do list[#list + 1] = path end
        table.sort(list)
        return list
      end,
      load_rule = function(path) return extra[path] or dofile(path) end,
    },
  }
  return require "notify"
end

describe("notify", function()
  local notify, samples

  before_each(function()
    extra, overlay, unsubscribe_url = {}, {}, nil
    notify = load_notify()
    samples = require "notify.samples"
  end)

  teardown(function()
    for name in pairs(package.loaded) do
      if name:find "^notify" or name == "buildq" then package.loaded[name] = nil end
    end
  end)

  it("renders each event with each cloud, below what Gmail cuts", function()
    notify.check()
    for _, event in ipairs(samples.all()) do
      local mail = notify.preview(event).mail
      assert.equal("ops@acme.example", mail.to.address)
      assert.truthy(#mail.html < 100 * 1000, event.event .. " has " .. #mail.html .. " bytes")
      assert.truthy(mail.subject:find("Köln tiles", 1, true))
      for _, text in ipairs { mail.html, mail.text } do
        assert.falsy(text:find("{{", 1, true) or text:find("{%", 1, true) or text:find("userdata", 1, true))
        assert.truthy(text:find("0193a5c2-7b1e-7c44-9d3a-5e6f7a8b9c0d", 1, true))
      end
    end
  end)

  it("says what each event is for", function()
    local done = notify.preview("completed", { cloud = "gcp" }).mail
    for _, words in ipairs { "Download the build", "gcloud run deploy", "48.2 MB", "2c26b46b68ff", "until 2 March 2026",
      "registry.acme.example", "https://builds.example/downloads/0193a5c2" } do
      assert.truthy(done.text:find(words, 1, true), words)
    end
    assert.truthy(done.html:find("gcloud", 1, true))
    local failed = notify.preview("failed").mail
    assert.truthy(failed.text:find("make: *** [Makefile:42: build/tiles.o] Error 1", 1, true))
    assert.truthy(failed.html:find("&#39;tile_ref&#39; &lt;in expansion", 1, true))
    local again = notify.preview("retrying").mail
    assert.truthy(again.text:find("Attempt 1 of 4 failed", 1, true))
    assert.truthy(again.text:find("12:18 UTC on 31 January 2026", 1, true))
    assert.truthy(notify.preview("cancelled").mail.text:find("\nWhy\n  No longer needed.", 1, true))
    local bare = notify.preview("failed", { cloud = "other" }).mail -- of which nothing is known but that it failed
    assert.falsy(bare.text:find("error above", 1, true) or bare.html:find("error above", 1, true))
  end)

  it("is another company's where the options say so", function()
    local config = package.loaded.buildq.config
    assert.truthy(notify.preview("queued").mail.html:find("Acme &lt;Maps&gt;", 1, true))
    assert.is_nil(notify.preview("queued").mail.replyTo)
    config.BrandColor, config.LogoUrl, config.SupportAddress, config.ReplyTo =
      "#123abc", "https://acme.example/logo.png", "help@acme.example", "reply@acme.example"
    local mail = notify.preview("queued").mail
    for _, words in ipairs { "background-color:#123abc", 'src="https://acme.example/logo.png"',
      'href="mailto:help%40acme.example"' } do
      assert.truthy(mail.html:find(words, 1, true), words)
    end
    assert.equal("reply@acme.example", mail.replyTo)
  end)

  local function preview_of(name, build, reason)
    local event = samples.make(name, "aws")
    event.build, event.data = build, { error = reason }
    return notify.preview(event).mail
  end

  it("has a link to stop mails, when there is one", function()
    assert.falsy(notify.preview("failed").mail.html:find("Stop these mails", 1, true))
    assert.falsy(notify.preview("failed").mail.text:find("To stop", 1, true))
    unsubscribe_url = "https://b.example/notifications/unsubscribe?token=a_b-c.d"
    local mail = notify.preview("failed").mail
    assert.truthy(mail.html:find('href="https://b.example/notifications/unsubscribe?token=a_b-c.d"', 1, true))
    assert.truthy(mail.text:find("\nTo stop these mails: https://b.example/notifications/unsubscribe?token=a_b-c.d\n",
      1, true))
  end)

  it("shows in a late mail nothing that has come since, and each fact on a line of its own", function()
    local function labels(name)
      local build, list = samples.make("completed", "aws").build, {}
      build.configurationName = "main\r\nTier: none"
      local text = preview_of(name, build).text
      for label, value in text:match("\nBuild\n(.-)\n\n"):gmatch "  (%a+): ([^\n]*)" do list[label] = value end
      return list
    end
    assert.equal("main Tier: none", labels("queued").Configuration)
    assert.is_nil(labels("queued").Started)
    assert.is_string(labels("started").Started)
    assert.is_nil(labels("started").Ended)
    assert.is_nil(labels("retrying").Duration)
    assert.is_string(labels("failed").Ended)
    assert.is_string(labels("completed").Duration)
  end)

  it("gives names one line, in headings and footers too", function()
    for _, name in ipairs(samples.events) do
      local build = samples.make(name, "aws").build
      build.configurationName, build.customerName = "main\r\nTrusted: yes", "Ada\nTrusted: yes"
      build.logTail = {}
      assert.falsy(("\n" .. preview_of(name, build).text):find("\n%s*Trusted: yes"), name)
    end
  end)

  it("stays below what Gmail cuts, whatever the build says", function()
    local build = samples.make("completed", "aws").build
    for n = 1, 300 do build.artifacts[n] = { name = "file" .. n, kind = "file", size = n, sha256 = ("a"):rep(64) } end
    for n = 1, 40 do build.logTail[n] = ("<ü"):rep(5000) end
    for _, name in ipairs(samples.events) do
      local mail = preview_of(name, build, ("&ü"):rep(50000))
      assert.truthy(#mail.html < 100 * 1000, name .. " has " .. #mail.html)
      assert.truthy(utf8.len(mail.html) and utf8.len(mail.text), name)
    end
    assert.truthy(preview_of("completed", build).text:find("and 275 more", 1, true))
  end)

  it("lets no customer's text out of its place", function()
    for _, evil in ipairs { '"><script>alert(1)</script>', "a\r\nBcc: all@evil.example\r\n",
      "🚀 שלום " .. ("ü"):rep(255),
      "{{ build.id }}{% end %}", "' onload='x", "\u{202E}evil", "</pre></td></table>", "javascript:alert(1)" } do
      local event = samples.make("completed", "aws")
      local build = event.build
      for _, name in ipairs { "configurationName", "tier", "architecture", "cloudProvider", "customerName", "imageUrl",
        "errorMessage", "customerId" } do build[name] = evil end
      build.logTail = { evil, evil }
      build.artifacts[1].name, build.artifacts[1].url = evil, nil
      for _, name in ipairs(samples.events) do
        local mail = preview_of(name, build, evil)
        assert.falsy(mail.subject:find("%c"), name)
        local tags = mail.html:gsub('"[^"]*"', '""')
        assert.falsy(tags:find("<script", 1, true) or tags:find("onload='", 1, true), name)
        assert.falsy(mail.html:find("javascript:", 1, true) and mail.html:find('href="javascript:', 1, true), name)
        assert.falsy(mail.html:find("\u{202E}", 1, true) or mail.text:find("\u{202E}", 1, true), name)
        local build_of_words = samples.make("completed", "aws").build
        build_of_words.logTail = { "x" }
        local ordinary = preview_of(name, build_of_words, "x")
        local function count(text) return select(2, text:gsub("</td>", "")) end
        assert.equal(count(ordinary.html), count(mail.html), name)
      end
    end
  end)

  it("expands an event by all rules, each recipient once", function()
    extra["scripts/notifications/boss.lua"] = {
      events = { "failed" },
      deliver = function(event)
        return { { channel = "email", recipient = event.customer.email:upper() }, { channel = "x",
          recipient = "#ops" } }
      end,
    }
    local results = notify.expand { samples.make "failed", samples.make "queued" }
    assert.equal(2, #results[1].deliveries)
    assert.same({ "OPS@ACME.EXAMPLE", "#ops" },
      { results[1].deliveries[1].recipient, results[1].deliveries[2].recipient })
    assert.equal("failed", results[1].deliveries[1].template)
    assert.equal(1, #results[2].deliveries)
  end)

  it("faults an event whose rule fails, and no other", function()
    extra["scripts/notifications/bad.lua"] = { events = { "failed" }, deliver = function() error "oh" end }
    local results = notify.expand { samples.make "failed", samples.make "queued" }
    assert.matches("oh", results[1].fault)
    assert.is_nil(results[1].deliveries)
    assert.equal(1, #results[2].deliveries)
  end)

  it("names the template and the line of a fault", function()
    overlay["email/failed.html"] = "{% layout 'email/layout.html' %}\n{% block body %}{{ build.nope }}{% end %}\n"
    local ok, message = pcall(notify.check)
    assert.is_false(ok)
    assert.equal("templates/email/failed.html:2: there is no build.nope", message)
  end)

  it("previews what the rules say", function()
    assert.is_true(notify.preview("queued").owed)
    assert.is_nil(notify.preview("queued").http)
    overlay["email/short.html"], overlay["email/short.txt"] = "<p>{{ build.tier }}</p>", "to {{ data.whom }}"
    extra["scripts/notifications/a.lua"] = {
      events = { "queued" },
      deliver = function()
        return { { channel = "email", recipient = "a@b.example", template = "short", data = { whom = "a" } } }
      end,
    }
    notify = load_notify()
    local preview = notify.preview "queued"
    assert.equal("<p>enterprise</p>", preview.mail.html)
    assert.equal("to a", preview.mail.text)
    assert.equal("a@b.example", preview.mail.to.address)
    assert.equal("x@y.example", notify.preview("queued", { recipient = "x@y.example" }).mail.to.address)
    assert.has_error(function() notify.preview("queued", { channel = "chat" }) end, "no script serves the channel chat")
  end)

  it("shows a sample to who is sent a test", function()
    local made = notify.message { channel = "email", event = "failed", recipient = "me@b.example", build = NULL }
    assert.equal("me@b.example", made.mail.to.address)
    assert.truthy(made.mail.text:find("build/tiles.o", 1, true))
    assert.is_true(notify.is_event "queued")
    local known, refusal = notify.is_event "quued"
    assert.is_false(known)
    assert.matches("there is no event quued; there are queued, started", refusal)
  end)

  it("gives a channel's deliveries to the script that serves it", function()
    extra["scripts/notifications/chat.lua"] = {
      events = { "failed" }, channel = "chat", deliver = function() return {} end,
      message = function(delivery) return { url = "https://x", body = delivery.build.id } end,
    }
    local made = notify.message { channel = "chat", event = "failed", build = { id = "7" } }
    assert.equal("7", made.http.body)
    assert.has_error(function() notify.message { channel = "fax", event = "failed" } end,
      "no script serves the channel fax")
    extra["scripts/notifications/chat.lua"].message = function() error("scripts/notifications/chat.lua:9: oh", 0) end
    local ok, message = pcall(notify.check)
    assert.is_false(ok)
    assert.equal("scripts/notifications/chat.lua:9: oh", message)
  end)
end)
