-- What customers are told: owed with the change of a build, sent once, kept until it is sent.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"
local smtp = require "spec.support.smtp"
local uv = require "luv"

local PIPELINES <const> = builds.scripts {
  ["pipelines/failing.lua"] = [[
    return { run = function(build)
      build:step("Trying", function() build:log "what it said" build:fail "no luck" end)
    end }
  ]],
}
local QUICK <const> = { DeliveryRetrySeconds = 1, DeliveryRetryMaxSeconds = 1, PollIntervalSeconds = 1 }

local function start(sink, queue, more, email)
  local options = { scripts = PIPELINES, config = { BuildQueue = {}, Email = sink:config(email) } }
  for name, value in pairs(QUICK) do options.config.BuildQueue[name] = value end
  for name, value in pairs(queue or {}) do options.config.BuildQueue[name] = value end
  for name, value in pairs(more or {}) do options[name] = value end
  return Server.start(options)
end

local function await_count(server, count, condition)
  server:wait_for(function()
    return server:sql("select count(*) from deliveries where " .. condition) == tostring(count)
  end, 40, function()
    local rows = server:sql "select event, state, fault, last_reply, node_id from deliveries order by id"
    return ("%d deliveries with %s:\n%s"):format(count, condition, rows)
  end)
end

local function insert(server, more)
  return server:sql(([[insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
    manifest_path, tier, architecture, cloud_provider, pipeline%s) values ('old', 'Old', 'old@example.org', 'plain',
    'm.json', 'pro', 'linux-x64', 'aws', 'quick'%s) returning id]]):format(more and ", " .. more[1] or "",
    more and ", " .. more[2] or "")):match "^%S+"
end

-- Which mails a build sent, in the order in which they came: "queued started completed".
local function told(sink, id)
  local list = {}
  for _, mail in ipairs(sink:mails()) do
    local build, event = mail.headers["message-id"]:match "^<([%x%-]+)%.(%a+)%."
    if build == id then list[#list + 1] = event end
  end
  return table.concat(list, " ")
end

describe("without a mail server, mails", function()
  local server
  lazy_setup(function() server = Server.start { scripts = PIPELINES } end)
  lazy_teardown(function() server:stop() end)

  it("become files that any mail program opens", function()
    local id = builds.submit(server)
    await_count(server, 3, "state = 'sent'")
    local paths = {}
    for name in uv.fs_scandir_next, assert(uv.fs_scandir(server.directory .. "/state/outbox")) do
      assert.is_truthy(name:find "%.eml$", name)
      paths[#paths + 1] = server.directory .. "/state/outbox/" .. name
      assert.equal("640", ("%o"):format(uv.fs_stat(paths[#paths]).mode & 511))
    end
    table.sort(paths)
    assert.equal(3, #paths)
    for _, mail in ipairs(smtp.read(paths)) do
      assert.same({}, mail.defects)
      assert.is_truthy(mail.html:find(id, 1, true))
      assert.equal("c1@example.org", mail.to[1].address)
    end
    assert.is_truthy(server:sql "select string_agg(last_reply, ' ') from deliveries":find(paths[1], 1, true))
  end)
end)

describe("a mail that can't be made", function()
  local ODD <const> = [[return { channel = "email", events = { "queued" }, deliver = function() return {} end,
    message = function(delivery)
      return { to = { address = delivery.recipient }, subject = "s", text = "t", replyTo = "no address" }
    end }]]

  it("is dead, and says why, with a mail server and without", function()
    local scripts = builds.scripts { ["notifications/odd.lua"] = ODD }
    local sink = smtp.sink()
    local server = start(sink, {}, { scripts = scripts })
    local files = Server.start { scripts = scripts }
    for _, each in ipairs { server, files } do
      insert(each)
      await_count(each, 1, [[event = 'queued' and state = 'dead' and last_reply like '%"no address" is no mail%']])
      each:stop()
    end
    assert.same({}, sink:mails())
    sink:stop()
  end)
end)

describe("files of mails", function()
  it("are bounded in number and age", function()
    local server = Server.new { scripts = PIPELINES }
    local outbox = server.directory .. "/state/outbox/"
    process.check { "sh", "-c", ([[mkdir -p %s && cd %s && for n in $(seq 1001 2003); do echo x > 2020-01-$n.eml; done
      touch -d '40 days ago' 2020-01-2003.eml && echo x > half.eml.new && touch -d '2 hours ago' half.eml.new
      echo mine > notes.txt]]):format(outbox, outbox) }
    process.check { "chmod", "-R", "a+rwX", server.directory .. "/state" }
    server:launch()
    server:wait_for(function()
      return not uv.fs_stat(outbox .. "2020-01-1002.eml") and not uv.fs_stat(outbox .. "half.eml.new")
    end, 30)
    assert.is_table(uv.fs_stat(outbox .. "2020-01-1003.eml")) -- one of the 1000 that stay
    assert.is_nil((uv.fs_stat(outbox .. "2020-01-2003.eml")))
    assert.is_table(uv.fs_stat(outbox .. "notes.txt"))
    server:stop()
  end)
end)

describe("a build", function()
  local sink, server
  lazy_setup(function()
    sink = smtp.sink()
    server = start(sink, { MaxRetryAttempts = 3, RetryDelayMinutes = 0 }, { manifests = { ["m.json"] = {
      version = "1.0", name = "m", tier = "pro", architecture = "linux-x64",
      cloudTargets = { { provider = "aws" } }, pipeline = "quick" } } })
  end)
  lazy_teardown(function() server:stop() end)

  it("that fails four times sends one queued, one started, three retrying, one failed; a manual retry again", function()
    local id = builds.submit(server, { pipeline = "failing" })
    await_count(server, 6, ("build_id = '%s' and state = 'sent'"):format(id))
    assert.equal("queued started retrying retrying retrying failed", told(sink, id))
    local failed = sink:mails()[#sink:mails()]
    assert.is_truthy(failed.text:find("no luck", 1, true))
    assert.is_truthy(failed.text:find("what it said", 1, true))
    assert.equal(200, server:post("/builds/" .. id .. "/retry").status // 100 * 100)
    await_count(server, 12, ("build_id = '%s' and state = 'sent'"):format(id))
    assert.equal(("queued started retrying retrying retrying failed "):rep(2):sub(1, -2), told(sink, id))
    local ids = {}
    for _, mail in ipairs(sink:mails()) do
      assert.is_nil(ids[mail.headers["message-id"]])
      ids[mail.headers["message-id"]] = true
    end
  end)

  it("that came by plain SQL sends the same mails", function()
    local id = insert(server)
    builds.await(server, id, "success")
    await_count(server, 3, ("build_id = '%s' and state = 'sent'"):format(id))
    assert.equal("queued started completed", told(sink, id))
  end)

  it("of an unsubscribed customer sends nothing, and that is shown", function()
    server:sql [[insert into suppressions (customer_id, event, source) values ('quiet', 'started', 'command')]]
    local id = builds.submit(server, { customerId = "quiet" })
    await_count(server, 2, ("build_id = '%s' and state = 'sent'"):format(id))
    assert.equal("queued completed", told(sink, id))
    assert.equal("skipped|unsubscribed by command", server:sql(
      ("select state, reason from deliveries where build_id = '%s' and event = 'started'"):format(id)))
  end)

  it("sends a mail again when somebody asks for it, under another Message-ID", function()
    local id = builds.submit(server)
    await_count(server, 3, ("build_id = '%s' and state = 'sent'"):format(id))
    local row = server:sql(("select id from deliveries where build_id = '%s' and event = 'completed'"):format(id))
    server:sql(([[update deliveries set state = 'waiting', tries = 0, resend = resend + 1, ended_at = null
      where id = '%s']]):format(row))
    server:wait_for(function() return told(sink, id) == "queued started completed completed" end, 30)
    local mails = sink:mails()
    assert.are_not.equal(mails[#mails - 1].headers["message-id"], mails[#mails].headers["message-id"])
    assert.equal(mails[#mails - 1].headers["in-reply-to"], mails[#mails].headers["in-reply-to"])
  end)
end)

describe("a template that fails with one build's data", function()
  it("holds up that mail alone, is shown, and lets it go when it is mended", function()
    local sink = smtp.sink()
    local server = start(sink)
    local broken = '{% if build.configurationName == "odd" %}{{ build.metadata | bytes }}{% end %}Started.\n'
    server:write("templates", { ["email/started.txt"] = broken })
    server:wait_for(function() return server:log():find("changed templates/email/started.txt", 1, true) end, 30)
    local odd = builds.submit(server, { configurationName = "odd", customerEmail = "odd@example.org" })
    local even = builds.submit(server, { configurationName = "even" })
    await_count(server, 3, ("build_id = '%s' and state = 'sent'"):format(even))
    await_count(server, 2, ("build_id = '%s' and state = 'sent'"):format(odd))
    await_count(server, 1, ("build_id = '%s' and state = 'faulty' and event = 'started'"):format(odd))
    local fault = server:sql "select fault from deliveries where state = 'faulty'"
    assert.equal(1, (fault:find("templates/email/started.txt:1: ", 1, true)), fault)
    assert.is_truthy(server:log():find("a template fails", 1, true))
    server:wait_for(function()
      return server:get("/metrics").body:find('buildq_deliveries_faulty{channel="email"} 1', 1, true)
    end, 20, "the metric")
    server:write("templates", { ["email/started.txt"] = "Started, mended.\n" })
    await_count(server, 3, ("build_id = '%s' and state = 'sent'"):format(odd))
    assert.equal("0", server:sql "select count(*) from deliveries where fault is not null")
    server:stop()
  end)

  it("also when a rule fails", function()
    local sink = smtp.sink()
    local server = start(sink, nil, { scripts = builds.scripts { ["notifications/email.lua"] = [[
      return { events = { "queued" }, deliver = function(event)
        if event.build.configurationName == "odd" then error "no idea" end
        return { { channel = "email", recipient = event.customer.email } }
      end } ]] } })
    builds.submit(server, { configurationName = "odd" })
    builds.submit(server, { configurationName = "even" })
    await_count(server, 1, "state = 'sent'")
    server:wait_for(function()
      return server:sql("select fault from outbox where state = 'pending' and fault is not null"):find "no idea"
    end, 20)
    server:write("scripts", { ["notifications/email.lua"] = [[
      return { events = { "queued" }, deliver = function(event)
        return { { channel = "email", recipient = event.customer.email } }
      end } ]] })
    await_count(server, 2, "state = 'sent'")
    server:stop()
  end)
end)

describe("a rule that wants more memory than it may have", function()
  it("is at fault, and holds up that event alone", function()
    local sink = smtp.sink()
    local server = start(sink, nil, { scripts = builds.scripts { ["notifications/big.lua"] = [[
      return { events = { "queued" }, deliver = function(event)
        return event.build.configurationName == "odd" and { ("x"):rep(1 << 40) } or {}
      end } ]] } })
    local odd = builds.submit(server, { configurationName = "odd" })
    await_count(server, 2, ("build_id = '%s' and state = 'sent'"):format(odd))
    assert.equal("started completed", told(sink, odd))
    assert.matches("scripts/notifications/big.lua: not enough memory$", server:sql(
      ("select fault from outbox where build_id = '%s' and state = 'pending'"):format(odd)))
    server:stop()
  end)
end)

describe("an event that nobody is told of", function()
  it("is done with, and holds up no other", function()
    local sink = smtp.sink()
    local server = start(sink, nil, { scripts = builds.scripts { ["notifications/email.lua"] = [[
      return { events = { "started", "completed" }, deliver = function(event)
        return event.event == "completed" and { { channel = "email", recipient = event.customer.email } } or {}
      end } ]] } })
    local id = builds.submit(server)
    await_count(server, 1, "state = 'sent'")
    assert.equal("completed", told(sink, id))
    assert.equal("3", server:sql "select count(*) from outbox where state = 'expanded'")
    assert.is_nil(server:log():find("can't be stored", 1, true))
    server:stop()
  end)
end)

describe("a rule that never ends for one build", function()
  it("is ended and named with its line, holds up that event alone, and is shown to who looks", function()
    local sink = smtp.sink()
    local server = start(sink, nil, { scripts = builds.scripts { ["notifications/loop.lua"] = [[
      return { events = { "queued" }, deliver = function(event)
        while event.build.configurationName == "odd" do end
        return {}
      end } ]] } })
    local odd = builds.submit(server, { configurationName = "odd" })
    local even = builds.submit(server, { configurationName = "even" })
    await_count(server, 3, ("build_id = '%s' and state = 'sent'"):format(even))
    await_count(server, 2, ("build_id = '%s' and state = 'sent'"):format(odd))
    local words = "scripts/notifications/loop.lua:2: the handler computed for more than"
    local page
    server:wait_for(function()
      page = server:get("/notifications?limit=1").json
      return #page.faults > 0
    end, 20, "the fault in the list")
    assert.equal(1, #page.faults)
    assert.equal(odd, page.faults[1].buildId)
    assert.equal("queued", page.faults[1].event)
    assert.equal(words, page.faults[1].fault:sub(1, #words))
    assert.same({}, server:get("/notifications?state=sent").json.faults)
    assert.same({}, server:get("/notifications?build=" .. even).json.faults)
    assert.equal(400, server:get("/notifications?build=x").status)
    local listed = server:command { "mail", "list", "--server", "http://" .. server.address }
    assert.equal(0, listed.code)
    assert.is_truthy(listed.errors:find(("queued of build %s waits until a script is mended: %s"):format(odd, words), 1,
      true), listed.errors)
    server:write("scripts", { ["notifications/loop.lua"] = [[
      return { events = { "queued" }, deliver = function() return {} end } ]] })
    await_count(server, 3, ("build_id = '%s' and state = 'sent'"):format(odd))
    assert.same({}, server:get("/notifications").json.faults)
    server:stop()
  end)
end)

describe("a server that is killed", function()
  it("between the commit and the sending leaves all mails to the next", function()
    local sink = smtp.sink()
    sink:plan { { stage = "mail", action = "hang" } }
    local server = start(sink)
    local id = builds.submit(server)
    builds.await(server, id, "success")
    await_count(server, 1, "state = 'sending'")
    server:kill "sigkill"
    server.child:wait()
    sink:plan {}
    server:launch()
    await_count(server, 3, "state = 'sent'")
    assert.equal("queued started completed", told(sink, id))
    server:stop()
  end)

  it("between the sending and the record sends that one again, with the same Message-ID", function()
    local sink = smtp.sink()
    local server = start(sink)
    -- What the mail server has taken can't be recorded.
    server:sql [[create function refuse() returns trigger language plpgsql as $$ begin
      if new.state = 'sent' then perform pg_sleep(60); end if; return new; end $$;
      create trigger refuse before update on deliveries for each row execute function refuse()]]
    local id = builds.submit(server)
    server:wait_for(function() return #sink:mails() >= 1 end, 30)
    server:kill "sigkill"
    server.child:wait()
    server:sql [[select pg_terminate_backend(pid) from pg_stat_activity where query like '%buildq_delivery_attempt%'
      and pid <> pg_backend_pid()]]
    server:sql "drop trigger refuse on deliveries"
    server:launch()
    await_count(server, 3, "state = 'sent'")
    local count = {}
    for _, mail in ipairs(sink:mails()) do
      local key = mail.headers["message-id"]
      count[key] = (count[key] or 0) + 1
    end
    local different = 0
    for _ in pairs(count) do different = different + 1 end
    assert.equal(3, different)
    assert.equal(2, count[sink:mails()[1].headers["message-id"]])
    assert.is_truthy(told(sink, id):find "^queued queued")
    server:stop()
  end)

  it("or only frozen for longer than its lease, sends nothing when it wakes up", function()
    local sink = smtp.sink()
    local gate = uv.new_tcp() -- never answers; who waits for that goes on when it is closed
    assert(gate:bind("127.0.0.1", 0))
    assert(gate:listen(8, function() end))
    local scripts = builds.scripts { ["notifications/email.lua"] = ([[
      local buildq = require "buildq"
      return {
        events = { "completed" },
        deliver = function(event) return { { channel = "slow", recipient = event.customer.email } } end,
        channel = "slow",
        message = function(delivery)
          if delivery.claim == 1 then -- no sample, and not the other server's: it is frozen meanwhile
            pcall(buildq.http.request, { url = "http://127.0.0.1:%d/", timeout = 600 })
          end
          return { mail = { to = { address = delivery.recipient }, subject = "s", text = "t", html = "<p>t</p>" } }
        end,
      } ]]):format(gate:getsockname().port) }
    local first = start(sink, { LeaseSeconds = 3 }, { scripts = scripts })
    local id = builds.submit(first)
    await_count(first, 1, "state = 'sending'")
    first:kill "sigstop"
    local second = start(sink, { LeaseSeconds = 3 }, { scripts = scripts, database = first.database })
    await_count(second, 1, "state = 'sent'")
    first:kill "sigcont"
    gate:close()
    first:wait_for(function()
      return first:log():find("another server has the notification: it was not sent here", 1, true)
    end, 30, "the stale delivery")
    assert.equal("completed", told(sink, id))
    first:stop()
    second:stop()
  end)

  it("or frozen while the mail server thinks, withdraws the mail when it wakes up", function()
    local sink = smtp.sink()
    sink:plan { { stage = "data", action = "wait", times = 1 } }
    sink:hold()
    -- The time limit of a mail goes on while the server is frozen.
    local first = start(sink, { LeaseSeconds = 3 }, nil, { TimeoutSeconds = 600 })
    first:post("/queue/pause", { reason = "only the mail" })
    local id = insert(first)
    first:wait_for(function() return sink:waits() end, 30, "DATA") -- sender and recipient were said
    first:kill "sigstop"
    local second = start(sink, { LeaseSeconds = 3 }, { database = first.database })
    await_count(second, 1, "state = 'sent'")
    sink:release() -- "go ahead"
    first:kill "sigcont"
    first:wait_for(function()
      return first:log():find("another server has the notification: it was not sent here", 1, true)
    end, 30, "the stale delivery")
    assert.equal("queued", told(sink, id))
    first:stop()
    second:stop()
  end)

  it("or whose heartbeats fail, claims nothing that it would give back", function()
    local sink = smtp.sink()
    local server = start(sink, { LeaseSeconds = 3 })
    server:post("/queue/pause", { reason = "only the mail" })
    server:sql [[create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
      create trigger refuse before update on nodes for each row execute function refuse()]]
    local function failed() return select(2, server:log():gsub("a heartbeat failed", "")) end
    server:wait_for(function() return failed() >= 4 end, 30, "the lease to be over") -- one each second
    local id = insert(server)
    await_count(server, 1, "state = 'waiting'")
    local before = failed()
    server:wait_for(function() return failed() >= before + 3 end, 30, "some looks")
    assert.equal("0", server:sql "select sum(claim) from deliveries")
    server:sql "drop trigger refuse on nodes"
    await_count(server, 1, "state = 'sent'")
    assert.equal("queued", told(sink, id))
    server:stop()
  end)

  it("while it builds sends no second started", function()
    local sink = smtp.sink()
    local first = start(sink, { LeaseSeconds = 3 })
    local id = builds.submit(first, { pipeline = "gate" })
    builds.await(first, id, "building")
    await_count(first, 2, "state = 'sent'")
    local second = start(sink, { LeaseSeconds = 3 }, { database = first.database })
    first:kill "sigkill"
    first.child:wait()
    second:wait_for(function()
      return second:sql(("select attempt from build_queue where id = '%s' and status = 'building'"):format(id)) == "2"
    end, 40)
    builds.open_gate(second, id, 2)
    builds.await(second, id, "success")
    await_count(second, 3, "state = 'sent'")
    assert.equal("queued started completed", told(sink, id))
    second:stop()
  end)
end)

describe("a sender whose address moves to another domain", function()
  it("sends a mail whose reply was lost under its first Message-ID, and goes on with the conversation", function()
    local sink = smtp.sink()
    sink:plan { { stage = "body", action = "keep-drop", times = 1 } }
    local server = start(sink, { DeliveryRetrySeconds = 600, DeliveryRetryMaxSeconds = 600 })
    builds.await(server, builds.submit(server), "success")
    await_count(server, 1, "event = 'queued' and state = 'waiting' and tries = 1")
    server:stop()
    server.config.Email.FromAddress = "builds@other.example"
    server:write_config()
    server:sql [[update deliveries set run_after = now();
      insert into outbox (build_id, event, round, attempt, data)
        select id, 'cancelled', 0, 0, '{}' from build_queue]]
    server:launch()
    await_count(server, 4, "state = 'sent'")
    local of = {}
    for _, mail in ipairs(sink:mails()) do
      local event = mail.headers["message-id"]:match "%.(%a+)%."
      of[event] = of[event] or {}
      table.insert(of[event], mail)
    end
    local first = of.queued[1].headers["message-id"]
    assert.matches("@honua%.example>$", first)
    assert.equal(first, of.queued[2].headers["message-id"])
    assert.equal("builds@other.example", of.queued[2].sender)
    assert.equal(first, of.completed[1].headers["references"])
    assert.matches("@other%.example>$", of.cancelled[1].headers["message-id"])
    assert.equal(first, of.cancelled[1].headers["references"])
    server:stop()
    sink:stop()
  end)
end)

describe("a server with many mails", function()
  it("claims ahead what it sends, and gives back at a stop what it has not begun", function()
    local sink = smtp.sink { keep = "ids" }
    sink:plan { { stage = "rcpt", action = "hang", recipient = "late" } }
    local server = start(sink, { MaxConcurrentDeliveries = 2 })
    server:sql [[insert into deliveries (id, event, channel, recipient, template, run_after)
      select gen_random_uuid(), 'queued', 'email', case when n > 300 then 'late' else 'c' end || n || '@example.org',
        'queued', now() - interval '1 hour' + n * interval '1 ms' from generate_series(1, 600) n;
      notify buildq_wake]]
    server:wait_for(function() return sink:count() == 300 end, 60, "the first mails")
    await_count(server, 300, "state = 'sent'")
    local claimed = tonumber(server:sql "select count(*) from deliveries where state = 'sending'")
    assert.is_true(claimed > 4, ("%d were claimed ahead"):format(claimed))
    server:stop()
    -- Two are with the mail server, two behind them: whether these were sent, the next start does not know.
    assert.is_true(tonumber(server:sql "select count(*) from deliveries where state = 'sending'") <= 4)
    assert.equal("0", server:sql [[select count(*) from deliveries
      where state = 'waiting' and (tries > 0 or attempts <> '[]' or run_after > now())]])
    sink:stop()
  end)
end)

describe("without notifications", function()
  it("nothing is owed and nothing is sent", function()
    local sink = smtp.sink()
    local server = start(sink, { EnableNotifications = false })
    builds.run(server)
    assert.equal("0", server:sql "select count(*) from outbox")
    assert.equal("0", server:sql "select count(*) from deliveries")
    -- It can be changed at SIGHUP: from then on builds are told of, and none of those before.
    local function switch(to)
      server.config.BuildQueue.EnableNotifications = to
      server:write_config()
      server:kill "sighup"
      local wanted = to and "t" or "f"
      server:wait_for(function() return server:sql "select notifications from queue_control" == wanted end, 20)
    end
    switch(true)
    local id = builds.submit(server)
    await_count(server, 3, "state = 'sent'")
    assert.equal("queued started completed", told(sink, id))
    switch(false)
    builds.run(server)
    server:stop()
    assert.equal("3", server:sql "select count(*) from outbox")
    assert.equal(3, #sink:mails())
  end)
end)
