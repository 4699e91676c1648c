-- The pages for people in a real browser: the preview that draws itself anew, and what the link in a mail leads to.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local chromium = require "spec.support.chromium"

local server, tab

local function url(path) return "http://" .. server.address .. path end

setup(function()
  if not chromium.path then return end
  server = Server.start {
    scripts = builds.scripts(),
    config = { Email = {
      UnsubscribeUrl = "https://b.example/notifications/unsubscribe", UnsubscribeSecret = ("0"):rep(32),
    } },
  }
  tab = chromium.open "about:blank"
end)

teardown(function()
  if tab then tab:close() end
  if server then server:stop() end
end)

describe("the preview page", function()
  it("shows text, headers and HTML, the HTML without any right", function()
    if not chromium.path then return pending(chromium.missing) end
    local build = builds.run(server, { configurationName = "<img src=x onerror=alert(1)>" })
    tab:go(url("/notifications/preview/completed?build=" .. build.id))
    local subject = tab:evaluate("[...document.querySelectorAll('dt')].find(e => e.innerText === 'Subject')"
      .. ".nextElementSibling.innerText")
    assert.equal("Completed: <img src=x onerror=alert(1)>", subject)
    assert.truthy(tab:evaluate("document.getElementById('text').innerText"):find(build.id, 1, true))
    -- It has an origin of its own, and nobody else's; so it is a process of its own too.
    local frame = tab:frame "format=html"
    assert.equal("null", frame:evaluate "self.origin")
    assert.equal("<img src=x onerror=alert(1)>", frame:evaluate "document.querySelector('h1').innerText")
    assert.has_error(function() tab:evaluate "frame.contentWindow.document.body" end)
    assert.same({}, tab:complaints())
  end)

  it("shows the mail as narrow and as dark as it was asked for", function()
    if not chromium.path then return pending(chromium.missing) end
    tab:go(url "/notifications/preview/queued")
    tab:evaluate "document.querySelector('[data-width=\"320px\"]').click()"
    assert.equal(320, tab:evaluate "frame.getBoundingClientRect().width")
    tab:evaluate "document.querySelector('[data-scheme=\"dark\"]').click()"
    assert.equal("dark", tab:evaluate "getComputedStyle(frame).colorScheme")
    tab:go(url "/notifications/preview/started")
    assert.equal(320, tab:evaluate "frame.getBoundingClientRect().width")
    assert.same({}, tab:complaints())
  end)

  it("shows what a chat is sent", function()
    if not chromium.path then return pending(chromium.missing) end
    tab:go(url "/notifications/preview/failed?channel=slack")
    assert.truthy(tab:evaluate("text.innerText"):find('\n  "blocks": [', 1, true))
    assert.equal("the secret SlackWebhookUrl", tab:evaluate "document.querySelector('dd').innerText")
    assert.is_true(tab:evaluate "frame === null")
    assert.same({}, tab:complaints())
  end)

  it("is drawn anew when a template was saved, and says what is wrong with one that can't run", function()
    if not chromium.path then return pending(chromium.missing) end
    tab:go(url "/notifications/preview/queued")
    server:write("templates", { ["email/queued.txt"] = "Saved: {{ build.tier }}\n" })
    tab:wait_for "document.getElementById('text').innerText.startsWith('Saved: enterprise')"
    server:write("templates", { ["email/queued.txt"] = "\n\n{{ build.teir }}\n" })
    tab:wait_for "disk.innerText.includes('templates/email/queued.txt:3: there is no build.teir')"
    assert.is_true(tab:evaluate "document.getElementById('text').innerText.startsWith('Saved: enterprise')")
    server:write("templates", { ["email/queued.txt"] = "Mended\n" })
    tab:wait_for "document.getElementById('text').innerText.startsWith('Mended')"
    assert.is_true(tab:evaluate "disk.hidden")
    assert.same({}, tab:complaints())
  end)
end)

describe("the page of a link in a mail", function()
  it("unsubscribes with a button, and takes it back", function()
    if not chromium.path then return pending(chromium.missing) end
    local token = server:get("/notifications/preview/failed?format=text").body:match "token=(%S+)"
    local function suppressed() return server:sql "select event from suppressions order by event" end
    tab:go(url("/notifications/unsubscribe?token=" .. token))
    assert.equal("", suppressed())
    tab:evaluate "document.querySelectorAll('button')[0].click()"
    tab:wait_for "document.title === 'No more mails about builds that have failed'"
    assert.equal("failed", suppressed())
    tab:evaluate "document.querySelector('[value=none]').click()"
    tab:wait_for "document.title === 'You get these mails again'"
    assert.equal("", suppressed())
    assert.same({}, tab:complaints())
  end)
end)
