-- What Slack, Teams and webhooks are sent, held against what their makers publish: types, a parser, a verifier.
local json = require "spec.support.json"
local npm = require "spec.support.npm"

local EVIL <const> = {
  "<!channel> <https://evil.example|click> & ``` *b* _i_ ~s~ @here #x :smile:", "a\r\nb\27[31mc\27[0m\0d",
  ("ü"):rep(255), ("&"):rep(255), ("<"):rep(255), "{{{DATE(2017-02-14T06:08:39Z,SHORT)}}} [x](https://evil.example)",
  '"},{"type":"image"}', "🚀 שלום \u{202E}evil", ("\1"):rep(255), ('"\\'):rep(127),
}

local config

local function load_notify(more)
  for name in pairs(package.loaded) do
    if name:find "^notify" or name == "buildq" then package.loaded[name] = nil end
  end
  config = {
    DownloadBaseUrl = "https://builds.example/", ServerUrl = "http://127.0.0.1:1", MaxRetryAttempts = 3,
    BrandName = "Acme <Maps>", BrandColor = "#2563c9", LogoUrl = "", SupportAddress = "", ReplyTo = "",
    SlackWebhook = "hooks.slack.example #1a2b3c4d", SlackEvents = { failed = true, completed = true },
    TeamsWebhook = "teams.example #1a2b3c4d", TeamsEvents = { failed = true },
    Webhook = "api.example #1a2b3c4d", WebhookEvents = { failed = true, queued = true },
  }
  package.loaded.buildq = {
    json = { null = json.null, encode = json.encode, array = function(list)
      return setmetatable(list, { __jsontype = "array" })
    end },
    config = config,
    notifications = { unsubscribe_url = function() end },
    templates = {
      read = function() end,
      rules = function()
        local list = {}
        for _, name in ipairs { "slack", "teams", "webhook" } do
          list[#list + 1] = ("scripts/notifications/%s.lua"):format(name)
        end
        for path in pairs(more or {}) do list[#list + 1] = path end
        return list
      end,
      load_rule = function(path) return more and more[path] or dofile(path) end,
    },
  }
  return require "notify"
end

describe("the channels", function()
  local notify, samples, npm_missing

  setup(function() npm_missing = npm.missing() end)

  before_each(function()
    notify = load_notify()
    samples = require "notify.samples"
  end)

  teardown(function() load_notify() package.loaded.buildq = nil end)

  local function evil_event(name, evil)
    local event = samples.make(name, "aws")
    for _, field in ipairs { "configurationName", "tier", "architecture", "cloudProvider", "customerName", "imageUrl",
      "errorMessage", "pipeline" } do event.build[field] = evil end
    event.customer.name, event.data.error = evil, evil:rep(40)
    return event
  end

  -- Each event, with a build of which much and one of which little is known, and two of them with each of the evil
  -- texts: the bodies, as text.
  local function bodies(channel)
    local list = {}
    local function add(event)
      local preview = notify.preview(event, { channel = channel })
      list[#list + 1] = preview.http.body
    end
    for _, event in ipairs(samples.all()) do
      if event.build.cloudProvider == "aws" or event.build.cloudProvider == "other" then add(event) end
    end
    for _, name in ipairs { "completed", "failed" } do
      for _, evil in ipairs(EVIL) do add(evil_event(name, evil)) end
    end
    return list
  end

  local function checked(program, channel)
    if npm_missing then return pending(npm_missing) end
    local child = npm.run(program, "[" .. table.concat(bodies(channel), ",\n") .. "]")
    assert.equal("", child.output .. child.errors)
    assert.equal(0, child.code)
  end

  it("sends Slack what its types allow", function() checked("slack.mjs", "slack") end)
  it("sends Teams cards that their parser understands whole", function() checked("teams.mjs", "teams") end)

  it("notices what is no Slack message", function()
    if npm_missing then return pending(npm_missing) end
    local block = '{"type": "section", "text": {"type": "mrkdown", "text": "a"}}'
    local child = npm.run("slack.mjs", '[{"text": "a", "blocks": [' .. block .. "]}]")
    assert.equal(1, child.code)
  end)

  it("notices what is no card", function()
    if npm_missing then return pending(npm_missing) end
    local card = '{"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlok", "text": "a"}]}'
    local child = npm.run("teams.mjs", '[{"type": "message", "attachments": [{"contentType": '
      .. '"application/vnd.microsoft.card.adaptive", "content": ' .. card .. "}]}]")
    assert.equal(1, child.code)
  end)

  it("keeps within Slack's bounds, and its own characters out of texts", function()
    for _, body in ipairs(bodies "slack") do
      local message = json.decode(body)
      assert.truthy(#message.blocks <= 50 and #message.text <= 3000)
      for _, block in ipairs(message.blocks) do
        if block.type == "header" then assert.truthy(#block.text.text <= 150) end
        if block.text then assert.truthy(#block.text.text <= 3000) end
        assert.truthy(#(block.fields or {}) <= 10)
        for _, field in ipairs(block.fields or {}) do assert.truthy(#field.text <= 2000 and utf8.len(field.text)) end
        for _, text in ipairs { block.text, table.unpack(block.fields or {}) } do
          if text.type == "mrkdwn" then
            local rest = text.text:gsub("<https://builds%.example/[^<>|]*|[^<>|]*>", ""):gsub("&%a+;", "")
            assert.falsy(rest:find "[<>&]", rest)
            assert.falsy(rest:gsub("^```", ""):gsub("```$", ""):find("```", 1, true), rest)
          end
        end
      end
    end
  end)

  it("keeps within what Teams takes", function()
    for _, body in ipairs(bodies "teams") do
      assert.truthy(#body < 28 * 1000, #body)
      assert.falsy(body:find("{{DATE", 1, true))
      assert.falsy(body:find('"TextBlock"', 1, true) or body:find('"FactSet"', 1, true), "these read markdown")
    end
  end)

  it("says in a webhook what is known of the build, and names all fields each time", function()
    local names
    for _, body in ipairs(bodies "webhook") do
      assert.truthy(#body < 256 * 1024)
      local message, list = json.decode(body), {}
      for name in pairs(message.data) do list[#list + 1] = name end
      table.sort(list)
      names = names or list
      assert.same(names, list)
    end
    local preview = notify.preview("failed", { channel = "webhook" })
    local message = json.decode(preview.http.body)
    assert.equal("build.failed", message.type)
    assert.equal("2026-01-31T12:13:47.000000Z", message.timestamp)
    assert.equal("0193a5c2-7b1e-7c44-9d3a-5e6f7a8b9c0d", message.data.id)
    assert.truthy(message.data.error:find("unknown type name", 1, true))
    assert.falsy(preview.http.body:find("ops@acme.example", 1, true), "no address leaves")
    assert.same({ secret = "WebhookUrl" }, preview.http.url)
    assert.same({ "WebhookSecrets" }, preview.http.sign.secrets)
  end)

  it("has one id for all tries of a webhook, and another for what is sent again on purpose", function()
    local delivery = notify.preview("failed", { channel = "webhook" }).delivery
    assert.equal(delivery.id, notify.message(delivery).http.sign.id)
    delivery.tries = 5
    assert.equal(delivery.id, notify.message(delivery).http.sign.id)
    delivery.resend = 2
    assert.equal(delivery.id .. "-2", notify.message(delivery).http.sign.id)
  end)

  it("tells each channel what it is configured for, under a name that shows no URL", function()
    local results = notify.expand { samples.make "failed", samples.make "completed", samples.make "started" }
    local function channels(n)
      local list = {}
      for _, delivery in ipairs(results[n].deliveries) do
        list[#list + 1] = delivery.channel .. " " .. delivery.recipient
      end
      return list
    end
    assert.same({ "slack hooks.slack.example #1a2b3c4d", "teams teams.example #1a2b3c4d",
      "webhook api.example #1a2b3c4d" }, channels(1))
    assert.same({ "slack hooks.slack.example #1a2b3c4d" }, channels(2))
    assert.same({}, channels(3))
    config.SlackWebhook, config.TeamsWebhook, config.Webhook = "", "", ""
    assert.same({}, notify.expand({ samples.make "failed" })[1].deliveries)
    notify.check() -- they are tried before a generation goes live all the same
  end)

  it("takes one more file for one more channel", function()
    local readme = assert(io.open "scripts/README.md")
    local text = readme:read "a":match "%-%- scripts/notifications/mattermost%.lua\n(.-)```"
    readme:close()
    local rule = assert(load(assert(text, "the example of scripts/README.md"), "=mattermost.lua"))()
    notify = load_notify { ["scripts/notifications/mattermost.lua"] = rule }
    samples = require "notify.samples"
    notify.check()
    local delivery = notify.expand({ samples.make "failed" })[1].deliveries
    assert.equal("mattermost", delivery[#delivery].channel)
    local http = notify.preview("failed", { channel = "mattermost" }).http
    assert.same({ secret = "mattermost-url" }, http.url)
    assert.truthy(json.decode(http.body).text:find("Köln tiles", 1, true))
  end)

  it("names the file whose message can't be sent", function()
    for problem, made in pairs {
      ["http.url must begin with"] = { url = "ftp://x", body = "" },
      ["http.body must be"] = { url = "https://x" },
      ["http.bdy is not known"] = { url = "https://x", bdy = "" },
      ["http.headers.A must be"] = { url = "https://x", body = "", headers = { A = 5 } },
      ["http.sign must be"] = { url = "https://x", body = "", sign = { id = "a", secrets = {} } },
      ["http.body has 262145 bytes"] = { url = "https://x", body = ("x"):rep(262145) },
    } do
      notify = load_notify { ["scripts/notifications/x.lua"] = {
        events = { "failed" }, channel = "x", deliver = function() return {} end,
        message = function() return { http = made } end } }
      local ok, message = pcall(notify.check)
      assert.is_false(ok)
      assert.truthy(message:find("scripts/notifications/x.lua: " .. problem, 1, true), message)
    end
  end)
end)
