-- Reads the history of a chaos run and says what in it breaks a promise of the queue. It knows nothing of how the run
-- went: the same rules hold for every history. spec/lua/chaos_check_spec.lua plants each fault and looks that it is
-- found.
local check = {}

-- An order may be broken for so long: a claim that was under way on another connection, and a poll.
local WINDOW_SECONDS <const> = 4
local SHOWN <const> = 5 -- of each rule's findings

local FINAL <const> = { success = true, failed = true, timedout = true, cancelled = true }
-- What an event owes its customer, once a round (or once an attempt).
local OWED <const> = {
  queued = "queued", started = "started", success = "completed", failed = "failed", timedout = "timedout",
  cancelled = "cancelled", retrying = "retrying",
}

-- Events by build, each list in the order of seq.
local function by_build(record)
  local lists = {}
  for _, event in ipairs(record.events) do
    lists[event.build] = lists[event.build] or {}
    table.insert(lists[event.build], event)
  end
  for _, list in pairs(lists) do table.sort(list, function(a, b) return a.seq < b.seq end) end
  return lists
end

local rules = {}

rules[#rules + 1] = { "every accepted build is there once, and nothing else", function(record, say)
  local keys = {}
  for _, each in ipairs(record.submissions) do
    if not each.id then say("%s was never accepted", each.key) end
    if each.id and keys[each.id] then say("%s and %s are one build %s", keys[each.id], each.key, each.id) end
    if each.id then keys[each.id] = each.key end
  end
  local there = {}
  for _, build in ipairs(record.builds) do
    there[build.id] = true
    if not keys[build.id] then say("nobody submitted %s", build.id) end
  end
  for id, key in pairs(keys) do
    if not there[id] then say("%s, accepted as %s, is lost", key, id) end
  end
  for _, text in ipairs(record.refused) do say("%s", text) end
end }

rules[#rules + 1] = { "every build has reached one final state in each round", function(record, say, events)
  for _, build in ipairs(record.builds) do
    if not FINAL[build.status] then say("%s is still %s", build.id, build.status) end
    local ended
    for _, event in ipairs(events[build.id] or {}) do
      if event.type == "queued" then
        ended = nil
      elseif ended and event.type ~= "priority" then
        say("%s: %s after it was %s", build.id, event.type, ended)
      end
      if FINAL[event.type] then ended = event.type end
    end
    if ended ~= build.status then say("%s is %s, its history ends with %s", build.id, build.status, tostring(ended)) end
  end
end }

rules[#rules + 1] = { "no event is missing", function(record, say, events)
  for _, build in ipairs(record.builds) do
    local list = events[build.id] or {}
    for i, event in ipairs(list) do
      if event.seq ~= i then
        say("%s: event %d has the number %d", build.id, i, event.seq)
        break
      end
    end
    if #list ~= build.seq then say("%s counts %d events, there are %d", build.id, build.seq, #list) end
  end
end }

-- Only these change a running build's state.
local ENDS <const> = {
  retrying = true, requeued = true, success = true, failed = true, timedout = true, cancelled = true,
}

rules[#rules + 1] = { "attempts follow each other, and only the newest one ends", function(_, say, events)
  for id, list in pairs(events) do
    local newest, running = 0, false
    for _, event in ipairs(list) do
      if event.type == "started" then
        if running then say("%s: attempt %d began while %d ran", id, event.attempt, newest) end
        if event.attempt ~= newest + 1 then say("%s: attempt %d after %d", id, event.attempt, newest) end
        newest, running = event.attempt, true
      elseif ENDS[event.type] then
        if event.attempt ~= newest then
          say("%s: %s by attempt %d, the newest was %d", id, event.type, event.attempt, newest)
        end
        if not running and event.type ~= "cancelled" then say("%s: %s, though no attempt ran", id, event.type) end
        running = false
      end
    end
  end
end }

rules[#rules + 1] = { "each attempt ran on one node", function(record, say)
  local server_of, node_of, seen = {}, {}, {}
  for _, join in ipairs(record.joins) do server_of[join.node] = join.server end
  for _, attempt in ipairs(record.attempts) do node_of[attempt.build .. "/" .. attempt.attempt] = attempt.node end
  for _, start in ipairs(record.starts) do
    local name = start.build .. "/" .. start.attempt
    if seen[name] then say("%s was begun by server %d and by server %d", name, seen[name], start.server) end
    seen[name] = start.server
    local owner = node_of[name] and server_of[node_of[name]]
    if owner ~= start.server then
      say("%s was begun by server %d, it belongs to %s", name, start.server, tostring(owner))
    end
  end
end }

rules[#rules + 1] = { "no row was written by a stale attempt", function(record, say)
  local server_of = {}
  for _, join in ipairs(record.joins) do server_of[join.node] = "chaos-" .. join.server end
  for _, write in ipairs(record.writes) do
    local alive = write.nodeState == "live" or write.nodeState == "draining"
    -- While its node lives nobody else writes; what a dead node had may be taken over by any, as lost.
    if alive and server_of[write.node] ~= write.writer then
      say("%s/%d: %s to %s by %s, it ran on %s", write.build, write.attempt, write.old, write.new, write.writer,
        tostring(server_of[write.node]))
    elseif not alive and (write.new == "success" or write.new == "building") then
      say("%s/%d: %s to %s by %s, though its node was %s", write.build, write.attempt, write.old, write.new,
        write.writer, tostring(write.nodeState))
    end
  end
end }

rules[#rules + 1] = { "an output belongs to the attempt that succeeded", function(record, say)
  for _, build in ipairs(record.builds) do
    local number = build.output and tonumber(build.output:match "/attempt%-(%d+)$")
    if build.output and (build.status ~= "success" or number ~= build.attempt) then
      say("%s is %s by attempt %d and shows %s", build.id, build.status, build.attempt, build.output)
    end
  end
end }

rules[#rules + 1] = { "every owed mail is there once, and no other", function(record, say)
  local owed, there = {}, {}
  for _, event in ipairs(record.events) do
    local name = OWED[event.type]
    if name then
      owed[("%s %s %d %d"):format(event.build, name, event.round, name == "retrying" and event.attempt or 0)] = true
    end
  end
  for _, row in ipairs(record.outbox) do
    local name = ("%s %s %d %d"):format(row.build, row.event, row.round, row.attempt)
    if there[name] then say("owed twice: %s", name) end
    if not owed[name] then say("owed for nothing: %s", name) end
    there[name] = true
  end
  for name in pairs(owed) do
    if not there[name] then say("not owed: %s", name) end
  end
end }

-- Mails by their Message-ID: how many of each.
local function copies_of(record)
  local copies = {}
  for _, mail in ipairs(record.mails) do copies[mail.id] = (copies[mail.id] or 0) + 1 end
  return copies
end

rules[#rules + 1] = { "every owed mail was sent, and no other", function(record, say)
  local deliveries, recipients, copies = {}, {}, copies_of(record)
  for _, each in ipairs(record.deliveries) do
    local name = ("%s %s %d %d"):format(each.build, each.event, each.round, each.attempt)
    if deliveries[name] then say("two deliveries: %s", name) end
    deliveries[name] = each
    if each.mail then recipients[each.mail] = each.recipient end
    if each.state ~= "sent" then
      say("%s is %s", name, each.state)
    elseif not copies[each.mail] then
      say("%s was not sent, though it is called so", name)
    elseif each.mail:sub(2, #each.build + #each.event + 3) ~= ("%s.%s."):format(each.build, each.event) then
      say("%s was sent as %s", name, each.mail)
    end
  end
  for _, row in ipairs(record.outbox) do
    local name = ("%s %s %d %d"):format(row.build, row.event, row.round, row.attempt)
    if not deliveries[name] then say("nobody was told: %s", name) end
  end
  for _, mail in ipairs(record.mails) do
    if not recipients[mail.id] then
      say("nobody owed %s", mail.id)
    elseif recipients[mail.id] ~= mail.recipient then
      say("%s went to %s", mail.id, mail.recipient)
    end
  end
end }

rules[#rules + 1] = { "a mail came again only when its fate was unknown", function(record, say)
  local copies = copies_of(record)
  for _, each in ipairs(record.deliveries) do
    local count = copies[each.mail] or 0
    if count > 1 + each.unknown then
      say("%s came %d times, after %d tries with an unknown end", each.mail, count, each.unknown)
    end
  end
end }

-- When each build waited, could have been claimed, and with which key. A build whose priority was changed had several
-- keys: it is left out.
local function waits(record, events)
  local list = {}
  for _, build in ipairs(record.builds) do
    local wait
    local mine = {}
    for _, event in ipairs(events[build.id] or {}) do
      if wait then
        wait["until"] = event.at
        wait.started = event.type == "started"
        mine[#mine + 1] = wait
        wait = nil
      end
      if event.type == "queued" or event.type == "retrying" or event.type == "requeued" then
        wait = { build = build.id, key = build.key, due = math.max(event.at, event.due or 0) }
      elseif event.type == "priority" then
        mine = {}
        break
      end
    end
    table.move(mine, 1, #mine, #list + 1, list)
  end
  return list
end

rules[#rules + 1] = { "builds are claimed in the order of their keys", function(record, say, events)
  local list = waits(record, events)
  for _, taken in ipairs(list) do
    if taken.started then
      for _, left in ipairs(list) do
        if left.key < taken.key and left.due <= taken["until"] - WINDOW_SECONDS
          and left["until"] >= taken["until"] + WINDOW_SECONDS then
          say("%s was taken at %.3f before %s, which waited from %.3f to %.3f", taken.build, taken["until"], left.build,
            left.due, left["until"])
        end
      end
    end
  end
end }

rules[#rules + 1] = { "nothing is left behind", function(record, say)
  for _, line in ipairs(record.strangers) do say("a process: %s", line) end
  for _, path in ipairs(record.leftovers) do say("files: %s", path) end
  for _, id in ipairs(record.unreadable) do say("%s", id) end
end }

rules[#rules + 1] = { "no server ended by itself", function(record, say)
  for _, text in ipairs(record.ends) do say("%s", text) end
end }

---@class Verdict
---@field rule string
---@field count integer findings
---@field examples string[] the first of them

--- Holds the history against each rule.
---@param record table as history.read makes it, with strangers, leftovers and unreadable
---@return Verdict[] verdicts one a rule
function check.run(record)
  local events, verdicts = by_build(record), {}
  for i, rule in ipairs(rules) do
    local verdict = { rule = rule[1], count = 0, examples = {} }
    rule[2](record, function(format, ...)
      verdict.count = verdict.count + 1
      if verdict.count <= SHOWN then verdict.examples[verdict.count] = format:format(...) end
    end, events)
    verdicts[i] = verdict
  end
  return verdicts
end

return check
