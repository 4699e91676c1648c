-- The checker of chaos runs, held against a history in which nothing is wrong and against one for each fault.
local check = require "tests.chaos.check"

local NODES <const> = { a = 1, b = 2 } -- node → server

-- A build that failed once on a, was taken from it, and succeeded on b; and one that was cancelled while it waited.
local function good()
  local x, y = "x", "y"
  local function event(build, seq, at, type, attempt, more)
    local e = { build = build, seq = seq, at = at, type = type, attempt = attempt, round = 0 }
    for name, value in pairs(more or {}) do e[name] = value end
    return e
  end
  local record = {
    submissions = { { key = "1", id = x }, { key = "2", id = y } }, refused = {}, ends = {}, strangers = {},
    leftovers = {}, unreadable = {}, joins = {}, nodes = {}, lease = 3,
    builds = {
      { id = x, status = "success", attempt = 3, round = 0, key = 10, seq = 7, output = "/out/x/attempt-3" },
      { id = y, status = "cancelled", attempt = 0, round = 0, key = 20, seq = 2 },
    },
    events = {
      event(x, 1, 0, "queued", 0), event(x, 2, 1, "started", 1, { node = "a" }),
      event(x, 3, 2, "retrying", 1, { due = 3 }), event(x, 4, 4, "started", 2, { node = "a" }),
      event(x, 5, 9, "requeued", 2), event(x, 6, 10, "started", 3, { node = "b" }), event(x, 7, 11, "success", 3),
      event(y, 1, 0, "queued", 0), event(y, 2, 1, "cancelled", 0),
    },
    attempts = {
      { build = x, attempt = 1, node = "a" }, { build = x, attempt = 2, node = "a" },
      { build = x, attempt = 3, node = "b" },
    },
    starts = {
      { server = 1, build = x, attempt = 1 }, { server = 1, build = x, attempt = 2 },
      { server = 2, build = x, attempt = 3 },
    },
    writes = {
      { build = x, old = "building", new = "pending", attempt = 1, node = "a", nodeState = "live", writer = "chaos-1" },
      { build = x, old = "building", new = "pending", attempt = 2, node = "a", nodeState = "dead", writer = "chaos-2" },
      { build = x, old = "building", new = "success", attempt = 3, node = "b", nodeState = "live", writer = "chaos-2" },
    },
    outbox = {}, deliveries = {}, mails = {},
  }
  for node, server in pairs(NODES) do table.insert(record.joins, { server = server, node = node }) end
  for _, owed in ipairs {
    "x queued 0", "x started 0", "x retrying 1", "x completed 0", "y queued 0", "y cancelled 0",
  } do
    local build, name, attempt = owed:match "(%S+) (%S+) (%d)"
    table.insert(record.outbox, { build = build, event = name, round = 0, attempt = tonumber(attempt) })
    local mail = ("<%s.%s.1.%s.0123@honua.example>"):format(build, name, attempt)
    table.insert(record.deliveries, { build = build, event = name, round = 0, attempt = tonumber(attempt),
      recipient = "a@acme.example", state = "sent", mail = mail, unknown = 0 })
    table.insert(record.mails, { id = mail, recipient = "a@acme.example" })
  end
  -- Once nobody knew whether it was sent, and so it was sent again.
  record.deliveries[2].unknown = 1
  table.insert(record.mails, record.mails[2])
  return record
end

-- Names of the rules that a history breaks.
local function broken(record)
  local names = {}
  for _, verdict in ipairs(check.run(record)) do
    if verdict.count > 0 then names[#names + 1] = verdict.rule end
  end
  return table.concat(names, "; ")
end

-- Each fault, and the rule that must find it.
local PLANTED <const> = {
  { "every accepted build is there once", "an accepted build is lost", function(r)
    table.remove(r.builds)
    for i = #r.events, 1, -1 do if r.events[i].build == "y" then table.remove(r.events, i) end end
    for i = #r.outbox, 1, -1 do if r.outbox[i].build == "y" then table.remove(r.outbox, i) end end
  end },
  { "every accepted build is there once", "a repeated request made a second build", function(r)
    table.remove(r.submissions)
  end },
  { "every accepted build is there once", "one build for two requests", function(r)
    r.submissions[3] = { key = "3", id = "x" }
  end },
  { "every accepted build is there once", "a request that is never accepted", function(r)
    r.submissions[3] = { key = "3" }
  end },
  { "every accepted build is there once", "a good request is refused", function(r)
    r.refused[1] = "POST /builds: 500"
  end },
  { "every build has reached one final state", "a build waits for ever", function(r)
    r.builds[1].status = "pending"
  end },
  { "every build has reached one final state", "two ends", function(r)
    table.insert(r.events, { build = "x", seq = 8, at = 12, type = "failed", attempt = 3, round = 0 })
    r.builds[1].seq = 8
    table.insert(r.outbox, { build = "x", event = "failed", round = 0, attempt = 0 })
  end },
  { "no event is missing", "a lost event", function(r) r.events[9].seq = 3 end },
  { "no event is missing", "a number without an event", function(r) r.builds[2].seq = 3 end },
  { "attempts follow each other", "two attempts at a time", function(r) r.events[5].type = "priority" end },
  { "attempts follow each other", "an attempt is skipped", function(r)
    r.events[6].attempt, r.events[7].attempt = 4, 4
  end },
  { "attempts follow each other", "the end of an older attempt", function(r) r.events[7].attempt = 2 end },
  { "each attempt ran on one node", "the same attempt twice", function(r)
    table.insert(r.starts, { server = 1, build = "x", attempt = 3 })
  end },
  { "each attempt ran on one node", "an attempt of another node", function(r) r.starts[1].server = 2 end },
  { "no row was written by a stale attempt", "a node writes what another one runs", function(r)
    r.writes[3].writer = "chaos-1"
  end },
  { "no row was written by a stale attempt", "a dead node's success", function(r) r.writes[3].nodeState = "dead" end },
  { "an output belongs to the attempt", "the output of an older attempt", function(r)
    r.builds[1].output = "/out/x/attempt-2"
  end },
  { "an output belongs to the attempt", "output without success", function(r)
    r.builds[2].output = "/out/y/attempt-0"
  end },
  { "every owed mail is there once", "a mail is not owed", function(r) table.remove(r.outbox, 4) end },
  { "every owed mail is there once", "a mail is owed twice", function(r) table.insert(r.outbox, r.outbox[1]) end },
  { "every owed mail is there once", "a mail for what did not happen", function(r)
    table.insert(r.outbox, { build = "y", event = "completed", round = 0, attempt = 0 })
  end },
  { "every owed mail was sent", "an event that nobody was told of", function(r) table.remove(r.deliveries, 3) end },
  { "every owed mail was sent", "a mail that still waits", function(r) r.deliveries[3].state = "waiting" end },
  { "every owed mail was sent", "a mail that is given up", function(r) r.deliveries[3].state = "dead" end },
  { "every owed mail was sent", "a mail that is called sent and is not", function(r) table.remove(r.mails, 3) end },
  { "every owed mail was sent", "one event has two deliveries", function(r)
    table.insert(r.deliveries, r.deliveries[1])
  end },
  { "every owed mail was sent", "a mail for what did not happen", function(r)
    table.insert(r.mails, { id = "<y.completed.1.0.0123@honua.example>", recipient = "a@acme.example" })
  end },
  { "every owed mail was sent", "a copy has a Message-ID of its own", function(r)
    table.insert(r.mails, { id = "<x.started.1.0.9999@honua.example>", recipient = "a@acme.example" })
  end },
  { "every owed mail was sent", "a mail tells of another build", function(r)
    r.deliveries[1].mail, r.deliveries[5].mail = r.deliveries[5].mail, r.deliveries[1].mail
  end },
  { "every owed mail was sent", "a mail goes to somebody else", function(r)
    r.mails[1] = { id = r.mails[1].id, recipient = "b@other.example" }
  end },
  { "a mail came again only when its fate was unknown", "a mail comes twice", function(r)
    table.insert(r.mails, r.mails[1])
  end },
  { "a mail came again only when its fate was unknown", "a mail comes once more than it was tried", function(r)
    table.insert(r.mails, r.mails[2])
  end },
  { "builds are claimed in the order of their keys", "a later one goes first, though the earlier one waits", function(r)
    r.events[9].at = 60
    r.builds[2].key = 5 -- it waited from 0 to 60, while the other one was claimed three times
  end },
  { "nothing is left behind", "a process", function(r) r.strangers[1] = "sleep 300" end },
  { "nothing is left behind", "a workspace", function(r) r.leftovers[1] = "workspace 1/x" end },
  { "nothing is left behind", "an artifact that can't be had", function(r) r.unreadable[1] = "x: 404" end },
  { "no server ended by itself", "a crash", function(r) r.ends[1] = "server 1 ended by itself: signal 11" end },
}

describe("the checker of chaos runs", function()
  it("finds nothing where nothing is wrong", function() assert.equal("", broken(good())) end)

  for _, planted in ipairs(PLANTED) do
    it("finds: " .. planted[2], function()
      local record = good()
      planted[3](record)
      local found = broken(record)
      assert.truthy(found:find(planted[1], 1, true), "found: " .. found)
    end)
  end

  it("has a fault planted for each of its rules", function()
    for _, verdict in ipairs(check.run(good())) do
      local has = false
      for _, planted in ipairs(PLANTED) do has = has or verdict.rule:find(planted[1], 1, true) ~= nil end
      assert.truthy(has, verdict.rule)
    end
  end)
end)
