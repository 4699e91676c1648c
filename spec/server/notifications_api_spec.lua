-- /notifications: what was told to whom, requeue, resend, cancel, tests; who wants no more; previews.
local json = require "dkjson"
local process = require "spec.support.process"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

local FORM <const> = { ["Content-Type"] = "application/x-www-form-urlencoded" }
local SECRET <const> = "0123456789abcdef0123456789abcdef"

local server

setup(function()
  server = Server.start {
    scripts = builds.scripts(),
    config = { Email = {
      BrandName = "Acme", UnsubscribeSecret = SECRET, UnsubscribeUrl = "https://b.example/notifications/unsubscribe",
    } },
  }
end)

teardown(function()
  if server then server:stop() end
end)

-- A row as the sender leaves it; due tomorrow, so that no sender takes it. Its id ends in the number.
local function delivery(number, fields)
  local row = {
    id = ("00000000-0000-7000-8000-%012d"):format(number), event = "queued", channel = "email", customer_id = "acme",
    recipient = "ops@acme.example", template = "queued", state = "waiting",
  }
  for name, value in pairs(fields or {}) do row[name] = value end
  local names, values = {}, {}
  for name, value in pairs(row) do
    names[#names + 1] = name
    values[#values + 1] = type(value) == "number" and value or ("'%s'"):format(value:gsub("'", "''"))
  end
  server:sql(("insert into deliveries (run_after, created_at, %s) values (now() + interval '1 day', "
    .. "'2026-01-01'::timestamptz + %d * interval '1 minute', %s)"):format(table.concat(names, ", "), number,
    table.concat(values, ", ")))
  return row.id
end

local function row(id, columns)
  return server:sql(("select %s from deliveries where id = '%s'"):format(columns, id))
end

describe("GET /notifications", function()
  setup(function()
    for number = 1, 5 do delivery(number) end
    delivery(6, { state = "dead", last_code = 550, last_reply = "5.1.1 no such user", recipient = "Gone@Acme.example" })
    delivery(7, { channel = "slack", recipient = "hooks.slack.com #1", event = "failed", customer_id = "other" })
  end)

  local function numbers(query)
    local answer = server:get("/notifications" .. query)
    assert.equal(200, answer.status, answer.body)
    local list = {}
    for index, item in ipairs(answer.json.notifications) do list[index] = tonumber(item.id:sub(-6)) end
    return list, answer.json.nextCursor
  end

  it("lists the newest first, page by page", function()
    local first, cursor = numbers "?limit=3"
    assert.same({ 7, 6, 5 }, first)
    local second, after = numbers("?limit=3&cursor=" .. cursor)
    assert.same({ 4, 3, 2 }, second)
    local third, none = numbers("?limit=3&cursor=" .. after)
    assert.same({ 1 }, third)
    assert.equal(json.null, none)
  end)

  it("filters", function()
    assert.same({ 6 }, numbers "?state=dead")
    assert.same({ 7 }, numbers "?channel=slack")
    assert.same({ 7 }, numbers "?event=failed")
    assert.same({ 7 }, numbers "?customerId=other")
    assert.same({ 6 }, numbers "?recipient=gone@acme.example")
    assert.same({}, numbers "?state=dead&channel=slack")
    assert.same({}, numbers "?build=00000000-0000-7000-8000-000000000000")
    assert.equal("dead", server:get("/notifications?state=dead").json.notifications[1].state)
  end)

  it("refuses what it can't read", function()
    for query, words in pairs {
      ["?state=gone"] = "must be waiting", ["?limit=0"] = "integer", ["?cursor=x"] = "cursor", ["?build=7"] = "UUID",
    } do
      local answer = server:get("/notifications" .. query)
      assert.equal(400, answer.status, query)
      assert.truthy(answer.body:find(words, 1, true), answer.body)
    end
  end)
end)

describe("one notification", function()
  it("is shown with its attempts and the last reply", function()
    local id = delivery(20, {
      state = "dead", tries = 1, last_code = 550, last_reply = "5.1.1 no such user",
      attempts = '[{"at": "2026-01-01T00:00:00Z", "outcome": "dead", "code": 550, "reply": "5.1.1 no such user"}]',
    })
    local answer = server:get("/notifications/" .. id)
    assert.equal(200, answer.status)
    assert.equal(550, answer.json.lastCode)
    assert.equal("5.1.1 no such user", answer.json.attempts[1].reply)
    assert.equal(404, server:get("/notifications/00000000-0000-7000-8000-00000000ffff").status)
    assert.equal(404, server:get("/notifications/x").status)
  end)

  it("is tried again when it waits or is dead, not when it was sent", function()
    local dead = delivery(21, { state = "dead", tries = 9 })
    local answer = server:post(("/notifications/%s/requeue"):format(dead))
    assert.equal(200, answer.status, answer.body)
    assert.equal("waiting", answer.json.state)
    assert.equal(0, answer.json.tries)
    local sent = delivery(22, { state = "sent" })
    answer = server:post(("/notifications/%s/requeue"):format(sent))
    assert.equal(409, answer.status)
    assert.truthy(answer.body:find("is sent", 1, true) and answer.body:find("resend", 1, true), answer.body)
    assert.equal("sent", row(sent, "state"))
    assert.equal(404, server:post("/notifications/00000000-0000-7000-8000-00000000ffff/requeue").status)
  end)

  it("is sent again on purpose, as another message", function()
    local id = delivery(23, { state = "sent", resend = 1 })
    local answer = server:post(("/notifications/%s/resend"):format(id))
    assert.equal(200, answer.status, answer.body)
    assert.equal("waiting", answer.json.state)
    assert.equal(2, answer.json.resend)
  end)

  it("is cancelled while it waits", function()
    local id = delivery(24)
    assert.equal("cancelled", server:post(("/notifications/%s/cancel"):format(id)).json.state)
    local answer = server:post(("/notifications/%s/cancel"):format(id))
    assert.equal(409, answer.status)
    assert.truthy(answer.body:find("this is cancelled", 1, true), answer.body)
  end)

  it("can be a test", function()
    local answer = server:post("/notifications/test", { recipient = "me@b.example", event = "failed" })
    assert.equal(202, answer.status, answer.body)
    assert.equal("/notifications/" .. answer.json.id, answer.headers.location)
    local shown = server:get(answer.headers.location).json
    assert.is_true(shown.test)
    assert.equal("failed", shown.event)
    for _, body in ipairs { {}, { recipient = "nobody" }, { recipient = "a@b.example", event = "faild" } } do
      assert.equal(400, server:post("/notifications/test", body).status)
    end
    assert.equal(404, server:post("/notifications/test", {
      recipient = "a@b.example", build = "00000000-0000-7000-8000-00000000ffff",
    }).status)
  end)
end)

describe("suppressions", function()
  it("are added, listed, taken back, and skip what waits", function()
    local build = server:sql [[with b as (insert into build_queue (id, customer_id, customer_name, customer_email,
        configuration_name, manifest_path, tier, architecture, cloud_provider)
      values (gen_random_uuid(), 'quiet', 'Q', 'q@q.example', 'c', 'm.json', 't', 'a', 'aws') returning id)
      select id from b]]:match "%x+%-[%x-]+"
    local id = delivery(30, { customer_id = "quiet", recipient = "second@q.example" })
    server:sql(("update deliveries set outbox_id = (select min(id) from outbox where build_id = '%s') where id = '%s'")
      :format(build, id))
    local answer = server:post("/notifications/suppressions", { customerId = "quiet", reason = "asked by phone" })
    assert.equal(200, answer.status, answer.body)
    assert.truthy(answer.json.skipped >= 1)
    assert.equal("skipped|unsubscribed by api", row(id, "state, reason"))
    local listed = server:get("/notifications/suppressions?customerId=quiet").json.suppressions
    assert.equal(1, #listed)
    assert.equal("asked by phone", listed[1].reason)
    assert.equal(200, server:request("DELETE", "/notifications/suppressions?customerId=quiet", "{}",
      { ["Content-Type"] = "application/json" }).status)
    assert.equal(404, server:request("DELETE", "/notifications/suppressions?customerId=quiet", "{}",
      { ["Content-Type"] = "application/json" }).status)
    assert.same({}, server:get("/notifications/suppressions?customerId=quiet").json.suppressions)
  end)

  it("name somebody, and an event that is there", function()
    for _, body in ipairs { {}, { event = "queued" }, { customerId = "a", event = "quued" } } do
      assert.equal(400, server:post("/notifications/suppressions", body).status)
    end
  end)

  it("are lifted for a recipient that was gone", function()
    server:sql "insert into disabled_recipients values ('webhook', 'x.example #1', '410 Gone')"
    local disabled = server:get("/notifications/suppressions").json.disabled
    assert.equal("410 Gone", disabled[1].reason)
    local path = "/notifications/disabled?channel=webhook&recipient=x.example%20%231"
    local headers = { ["Content-Type"] = "application/json" }
    assert.equal(200, server:request("DELETE", path, "{}", headers).status)
    assert.equal(404, server:request("DELETE", path, "{}", headers).status)
  end)
end)

describe("the link in a mail", function()
  local path

  local function suppressed()
    return server:sql "select event, source from suppressions where recipient = 'ops@acme.example' order by event"
  end

  setup(function()
    local text = server:get("/notifications/preview/completed?format=text").body
    local token = text:match "To stop these mails: https://b%.example/notifications/unsubscribe%?token=(%S+)"
    path = "/notifications/unsubscribe?token=" .. token
  end)

  before_each(function() server:sql "delete from suppressions" end)

  it("leads to a page that changes nothing", function()
    local answer = server:get(path)
    assert.equal(200, answer.status)
    assert.truthy(answer.body:find("ops@acme.example", 1, true))
    assert.truthy(answer.body:find('value="all"', 1, true))
    assert.matches("default%-src 'none'", answer.headers["content-security-policy"])
    assert.equal(200, server:request("HEAD", path).status)
    assert.equal("", suppressed())
  end)

  it("unsubscribes by one click of a mail program, without a session, from anywhere", function()
    local answer = server:request("POST", path, "List-Unsubscribe=One-Click", {
      ["Content-Type"] = "application/x-www-form-urlencoded", Origin = "https://mail.example",
    })
    assert.equal(200, answer.status, answer.body)
    assert.equal("completed|link", suppressed())
    server:sql "delete from suppressions"
    answer = server:request("POST", path, '--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\n'
      .. "One-Click\r\n--x--\r\n", { ["Content-Type"] = "multipart/form-data; boundary=x", Origin = "null" })
    assert.equal(200, answer.status)
    assert.equal("completed|link", suppressed())
    -- Again does no harm.
    assert.equal(200, server:request("POST", path, "List-Unsubscribe=One-Click", FORM).status)
    assert.equal("completed|link", suppressed())
  end)

  it("is in the mail itself, and is heeded from the next mail on", function()
    local function last(event, state)
      local query = ("/notifications?customerId=linked&event=%s&limit=1"):format(event)
      local found
      server:wait_for(function()
        found = server:get(query).json.notifications[1]
        return found and found.state == state
      end, 30, function() return ("%s to be %s: %s"):format(event, state, found and json.encode(found) or "none") end)
      return found
    end
    builds.run(server, { customerId = "linked", customerEmail = "linked@c.example" })
    local mail = process.read(last("completed", "sent").lastReply):gsub("\r\n[ \t]+", " ")
    assert.matches("\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", mail, 1, true)
    local link = mail:match "\r\nList%-Unsubscribe: *<https://b%.example(/notifications/unsubscribe%?token=[%w._-]+)>"
    assert.equal(200, server:request("POST", link, "List-Unsubscribe=One-Click", FORM).status)
    builds.run(server, { customerId = "linked", customerEmail = "linked@c.example" })
    assert.equal("unsubscribed by link", last("completed", "skipped").reason)
    last("queued", "sent")
  end)

  it("stops all, and takes it back", function()
    server:request("POST", path, "scope=event", FORM)
    server:request("POST", path, "scope=all", FORM)
    assert.equal("|link\ncompleted|link", suppressed())
    local answer = server:request("POST", path, "scope=none", FORM)
    assert.equal(200, answer.status)
    assert.equal("", suppressed())
  end)

  it("is refused when somebody has changed it, on every way", function()
    for _, bad in ipairs { path:sub(1, -2) .. (path:sub(-1) == "A" and "B" or "A"), "/notifications/unsubscribe",
      path:gsub("token=", "token=A"), "/notifications/unsubscribe?token=." } do
      assert.equal(400, server:get(bad).status, bad)
      assert.equal(400, server:request("POST", bad, "scope=all", FORM).status, bad)
    end
    assert.equal("", suppressed())
  end)

  it("is the one write that takes a form, and it takes nothing else", function()
    assert.equal(415, server:post(path).status)
    assert.equal(415, server:request("POST", path, "scope=all", { ["Content-Type"] = "text/plain" }).status)
    assert.equal(415, server:request("POST", "/notifications/suppressions", "customerId=acme", FORM).status)
    assert.equal(403, server:post("/notifications/suppressions", { customerId = "acme" },
      { Origin = "https://mail.example" }).status)
    assert.equal(403, server:request("POST", path, "scope=all", {
      ["Content-Type"] = "application/x-www-form-urlencoded", Host = "evil.example",
    }).status)
    assert.equal("", suppressed())
  end)
end)

describe("POST /notifications/preview/{event}", function()
  local function preview(templates, query, event)
    return server:post(("/notifications/preview/%s%s"):format(event or "completed", query or ""),
      { templates = setmetatable(templates, { __jsontype = "object" }) })
  end

  it("shows what templates that are not live would say", function()
    local live = server:get("/notifications/preview/completed?format=text").body
    local answer = preview({ ["email/completed.txt"] = '{% include "email/mine.txt" %}',
      ["email/mine.txt"] = "Ready: {{ build.configurationName }} for {{ customer.name }}" }, "?cloud=gcp")
    assert.equal(200, answer.status, answer.body)
    assert.matches("^Ready: .+ for ", answer.json.mail.text)
    assert.truthy(answer.json.mail.html:find("<table", 1, true)) -- those that were not given are the live ones
    assert.is_true(answer.json.owed)
    local text = preview({ ["email/completed.txt"] = "only this" }, "?format=text")
    assert.equal("only this", text.body)
    assert.matches("only this", preview({ ["email/completed.txt"] = "only this" }, "?format=eml").body)
    assert.equal(live, server:get("/notifications/preview/completed?format=text").body)
    assert.equal(live, preview({}, "?format=text").body)
  end)

  it("shows a build", function()
    local build = builds.run(server)
    local answer = preview({ ["email/completed.txt"] = "{{ build.id }}" }, "?format=text&build=" .. build.id)
    assert.equal(build.id, answer.body)
    assert.equal(404, preview({}, "?build=00000000-0000-7000-8000-000000000000").status)
  end)

  it("says what is wrong with them, by file and line", function()
    local answer = preview { ["email/completed.txt"] = "\n{{ build.nothing }}" }
    assert.equal(200, answer.status)
    assert.equal("templates/email/completed.txt:2: there is no build.nothing", answer.json.fault)
    answer = preview({ ["email/completed.txt"] = "\n{{ build.nothing }}" }, "?format=text")
    assert.equal(422, answer.status)
    assert.matches("templates/email/completed.txt:2: ", answer.json.detail)
    assert.equal(404, preview({}, "", "complete").status)
    assert.equal(400, preview({}, "?format=page").status)
    for _, name in ipairs { "../scripts/lib/notify.lua", "/etc/passwd", "email/../../x", "" } do
      local refused = preview { [name] = "x" }
      assert.equal(400, refused.status, name)
      assert.matches("must be a path below templates", refused.body)
    end
    local many = {}
    for n = 1, 51 do many["email/" .. n] = "x" end
    assert.matches("at most 50", preview(many).body)
    assert.equal(400, preview({ ["email/x"] = 1 }).status)
    assert.equal(400, server:post("/notifications/preview/completed", { files = {} }).status)
  end)

  it("takes nothing from the server when they never end", function()
    local loops, ends = ("{% for a in facts %}"):rep(12), ("{% end %}"):rep(12)
    local answer = preview { ["email/completed.txt"] = loops .. ends }
    assert.equal(200, answer.status)
    assert.is_nil(answer.json.mail)
    assert.matches("ran for more than", answer.json.fault)
    assert.equal(200, server:get("/notifications/preview/completed?format=text").status)
  end)
end)

describe("GET /notifications/preview/{event}", function()
  it("shows a sample, as a page, as HTML, as text and as JSON", function()
    local page = server:get "/notifications/preview/completed?cloud=gcp"
    assert.equal(200, page.status, page.body)
    assert.matches("^text/html", page.headers["content-type"])
    local policy = page.headers["content-security-policy"]
    assert.matches("default%-src 'none'", policy)
    assert.falsy(policy:find("unsafe", 1, true))
    assert.truthy(page.body:find("gcloud run deploy", 1, true))
    assert.truthy(page.body:find(' sandbox src="?build=&amp;cloud=gcp&amp;channel=&amp;format=html"', 1, true))
    local html = server:get "/notifications/preview/completed?format=html&cloud=gcp"
    assert.matches("sandbox", html.headers["content-security-policy"])
    assert.matches("frame%-ancestors 'self'", html.headers["content-security-policy"])
    assert.truthy(html.body:find("<h1", 1, true))
    local text = server:get "/notifications/preview/completed?format=text&cloud=gcp"
    assert.equal("text/plain; charset=utf-8", text.headers["content-type"])
    assert.truthy(text.body:find("gcloud run deploy", 1, true))
    local answer = server:get("/notifications/preview/completed?format=json&cloud=gcp").json
    assert.equal(text.body, answer.mail.text)
    assert.is_true(answer.owed)
    local eml = server:get "/notifications/preview/completed?format=eml"
    assert.equal("message/rfc822", eml.headers["content-type"])
    assert.matches("\r\nAuto-Submitted: auto-generated\r\n", eml.body, 1, true)
    assert.truthy(page.body:find("<dt>Message-Id</dt>", 1, true) or page.body:find("<dt>Message-ID</dt>", 1, true))
    assert.truthy(page.body:find("<dd>Completed: Köln tiles – production</dd>", 1, true))
    assert.truthy(page.body:find("<dt>List-Unsubscribe-Post</dt><dd>List-Unsubscribe=One-Click</dd>", 1, true))
    assert.equal(404, server:get("/notifications/preview/complete").status)
    assert.equal(400, server:get("/notifications/preview/completed?format=pdf").status)
  end)

  it("shows a build, and a notification of it as it would be sent now", function()
    local build = builds.run(server, { configurationName = "<b>Evil & co</b>", customerEmail = "who@c.example" })
    local path = ("/notifications/preview/completed?build=%s"):format(build.id)
    local answer = server:get(path .. "&format=json").json
    assert.equal("who@c.example", answer.mail.to.address)
    assert.equal(build.id, answer.facts.build.id)
    assert.truthy(answer.mail.html:find("&lt;b&gt;Evil &amp; co", 1, true))
    local page = server:get(path)
    assert.falsy(page.body:find("<b>Evil", 1, true))
    assert.truthy(page.body:find("build " .. build.id, 1, true))
    local id = delivery(40, { build_id = build.id, event = "completed", template = "completed",
      recipient = "third@c.example" })
    page = server:get(("/notifications/%s/preview"):format(id))
    assert.equal(200, page.status, page.body)
    assert.truthy(page.body:find("third@c.example", 1, true))
    assert.truthy(page.body:find("Evil &amp; co", 1, true))
    assert.equal(404, server:get("/notifications/preview/completed?build=00000000-0000-7000-8000-00000000ffff").status)
  end)
end)
