-- Two sessions with the server's own statements (sql/queries) in every interleaving of their steps. What overlaps has
-- the outcome that it has one after the other, in the order of the statements; where it hasn't, the pair says so. And
-- whatever the order is: no build is lost, none runs twice, its history has no gap, and what it owes is owed once.
local process = require "spec.support.process"
local sessions = require "spec.support.sessions"
local Server = require "spec.support.server"

local A <const>, B <const>, C <const> = "aaaaaaaa-0000-7000-8000-000000000001", "bbbbbbbb-0000-7000-8000-000000000002",
  "cccccccc-0000-7000-8000-000000000003"
local X <const>, Y <const> = "00000000-0000-7000-8000-00000000000a", "00000000-0000-7000-8000-00000000000b"
local NAMES <const> = { [A] = "A", [B] = "B", [C] = "C", [X] = "X", [Y] = "Y" }

local two, watcher -- the two sessions, and the one that looks at them

-- The statements that a pair is made of -----------------------------------------------------------------------------

local function step(...) return table.pack(...) end

local function claim(node, limit) return step("claim", node, limit or 1, 0, "generation", "{}") end
local function choose(node, ids) return step("claim_chosen", node, 9, 0, "generation", "{}", ids) end
local function finish(...)
  local list = {}
  for index, id in ipairs { ... } do list[index] = ('{"id": "%s", "attempt": 1, "node": "%s"}'):format(id, A) end
  return step("finish_success", "[" .. table.concat(list, ", ") .. "]")
end
local function fail(delay)
  return step("finish_failure", X, 1, A, "broken", "step", "failed", delay, "tail", "false")
end
local function finish_end(status) return step("finish_end", X, 1, A, status, "it ended", "step", "tail") end
local function place(key)
  return step("place", nil, ('[{"id": "%s", "priority": 1, "key": %d}]'):format(X, key), "[]")
end
local POLICY <const> = step("use_policy", "another")
local ENQUEUE <const> = step("enqueue_all", ([[ [{"id": "%s", "customerId": "acme", "customerName": "Acme",
  "customerEmail": "a@acme.example", "configurationName": "web", "manifestPath": "web.json", "tier": "pro",
  "architecture": "linux-x64", "cloudProvider": "aws", "priority": 1, "pipeline": "quick",
  "manifest": {}}] ]]):format(X))
local CANCEL <const> = step("cancel", X, "not wanted")
local RETRY <const> = step("retry", X)
local BULK <const> = step("bulk_retry", "failed", nil, 10)
local REQUEUE <const> = step("requeue", X, 1, A, "shutdown")
local PROGRESS <const> = step("progress", X, 1, A, 50, "Compile", "")
local RAISE <const> = step("set_priority", X, 3)
local TAKEOVER <const> = step "takeover"
local EXPIRE <const> = step("nodes_expire", B)
local HEARTBEAT <const> = step("node_heartbeat", A)
local RETENTION <const> = step("retention", 30, 10)
local COMMIT <const> = step "commit"

-- The mail that build X owes for its enqueue; it bears the id Y.
local function claim_mail(node) return step("deliveries_claim", node, 5, "generation", 3, 30, "honua.example") end
local function outcome_of(word)
  return step("delivery_outcomes", ([[ [{"id": "%s", "node": "%s", "claim": 1, "outcome": "%s", "retry": 0,
    "window": 3600, "messageId": "<x@y>", "generation": "generation"}] ]]):format(Y, A, word))
end
local MAIL_TAKEOVER <const> = step "deliveries_takeover"
local MAIL_CANCEL <const> = step("delivery_cancel", Y)
local MAIL_AGAIN <const> = step("delivery_requeue", Y, "true")
local MAIL_RELEASE <const> = step("deliveries_release", A, "{}")
local EXPAND <const> = step("outbox_take", 5, "generation", 3, 30)

-- What there is before: texts are SQL, the others are statements.
local WAITING <const> = { "insert X" }
local BOTH_WAIT <const> = { "insert X", "insert Y" }
local RUNNING <const> = { "insert X", claim(A) }
local BOTH_RUN <const> = { "insert X", "insert Y", claim(A, 2) }
local SILENT <const> = ("update nodes set heartbeat_at = now() - interval '1 hour' where id = '%s'"):format(A)
local DEAD <const> = ("update nodes set state = 'dead', ended_at = now() where id = '%s'"):format(A)
local SILENT_RUNNING <const> = { "insert X", claim(A), SILENT }
local DEAD_RUNNING <const> = { "insert X", claim(A), DEAD }
local FAILED <const> = { "insert X", claim(A), fail(nil) }
local OLD <const> = { "insert X", claim(A), fail(nil),
  "update build_queue set completed_at = now() - interval '90 days'" }

local MAIL <const> = ([[insert into deliveries (id, outbox_id, build_id, event, channel, recipient, template,
    run_after)
  select '%s', id, build_id, event, 'email', 'a@acme.example', event, now() - interval '1 second'
  from outbox]]):format(Y)
local EXPANDED <const> = "update outbox set state = 'expanded'"
local MAIL_WAITS <const> = { "insert X", MAIL, EXPANDED }
local MAIL_SENDING <const> = { "insert X", MAIL, EXPANDED, claim_mail(A) }
local MAIL_LEFT <const> = { "insert X", MAIL, EXPANDED, claim_mail(A), DEAD }

-- The pairs ---------------------------------------------------------------------------------------------------------
--
-- An outcome is "what a was answered; what b was answered; the builds". `ab`: a's statement came first, `ba`: b's did.
-- `b_during_a`: b's came while a was not committed yet, where that differs from `ab`; `a_during_b` likewise.
-- `after`: what a server asks next, before the builds are looked at.
-- `mails`: the state is that of mails.
-- `any`: for sessions of several transactions, the outcomes there may be.
local PAIRS <const> = {
  { "claim × claim", WAITING, claim(A), claim(B),
    ab = "X#1; none; X building 1 A", ba = "none; X#1; X building 1 B" },
  { "claim × claim, of two builds", BOTH_WAIT, claim(A), claim(B),
    ab = "X#1; Y#1; X building 1 A, Y building 1 B", ba = "Y#1; X#1; X building 1 B, Y building 1 A" },
  { "claim × claim of what a policy chose", BOTH_WAIT, claim(A), choose(B, ("{%s,%s}"):format(Y, X)),
    ab = "X#1; Y#1; X building 1 A, Y building 1 B", ba = "none; Y#1 X#1; X building 1 B, Y building 1 B" },
  { "claim × cancel", WAITING, claim(A), CANCEL,
    ab = "X#1; requested; X building 1 A cancel", ba = "none; cancelled; X cancelled 0" },
  { "claim × node expiry", { "insert X", SILENT }, claim(A), EXPIRE, after = TAKEOVER,
    ab = "X#1; A; X pending 1", ba = "none; A; X pending 0", a_during_b = "X#1; A; X pending 1" },
  { "claim × drain", WAITING, claim(A), step("node_drain", A),
    ab = "X#1; nothing; X building 1 A", ba = "none; nothing; X pending 0",
    a_during_b = "X#1; nothing; X building 1 A" },
  { "claim × pause", WAITING, claim(A), step("pause", "enough"),
    ab = "X#1; paused; X building 1 A", ba = "none; paused; X pending 0", a_during_b = "X#1; paused; X building 1 A" },
  { "claim × re-key by hand", WAITING, claim(A), RAISE,
    ab = "X#1; conflict building; X building 1 A", ba = "X#1; done; X building 1 A",
    a_during_b = "none; done; X pending 0" },
  { "claim × re-key by a policy", WAITING, claim(A), place(7),
    ab = "X#1; 0; X building 1 A", ba = "X#1; 1; X building 1 A key 7", a_during_b = "none; 1; X pending 0 key 7" },
  { "re-key × re-key", WAITING, place(7), place(8), ab = "1; 1; X pending 0 key 8", ba = "1; 1; X pending 0 key 7" },
  { "re-key by a policy × by hand", WAITING, place(7), RAISE,
    ab = "1; done; X pending 0", ba = "1; done; X pending 0 key 7" },
  { "re-key of all × enqueue", {}, POLICY, ENQUEUE, after = step "find_unplaced",
    ab = "1; accepted; X pending 0 to place", ba = "1; accepted; X pending 0 to place" },
  { "re-key of all × re-key by a policy", WAITING, POLICY, place(7),
    ab = "1; 0; X pending 0 to place", ba = "1; 1; X pending 0 key 7 to place" },
  { "re-key by a policy × cancel", WAITING, place(7), CANCEL,
    ab = "1; cancelled; X cancelled 0 key 7", ba = "0; cancelled; X cancelled 0" },
  { "re-key by hand × cancel", WAITING, RAISE, CANCEL,
    ab = "done; cancelled; X cancelled 0", ba = "conflict cancelled; cancelled; X cancelled 0" },
  { "cancel × cancel of a build that waits", WAITING, CANCEL, CANCEL,
    ab = "cancelled; conflict cancelled; X cancelled 0", ba = "conflict cancelled; cancelled; X cancelled 0" },

  { "heartbeat × expiry", SILENT_RUNNING, HEARTBEAT, EXPIRE,
    ab = "alive; nothing; X building 1 A", ba = "dead; A; X building 1 A" },
  { "heartbeat × cancel", RUNNING, HEARTBEAT, CANCEL,
    ab = "alive; requested; X building 1 A cancel", ba = "alive, cancel X; requested; X building 1 A cancel",
    a_during_b = "alive; requested; X building 1 A cancel" },
  { "heartbeat × takeover, of a living node", RUNNING, HEARTBEAT, TAKEOVER,
    ab = "alive; none; X building 1 A", ba = "alive; none; X building 1 A" },
  { "expiry × expiry", SILENT_RUNNING, EXPIRE, step("nodes_expire", C),
    ab = "A; nothing; X building 1 A", ba = "nothing; A; X building 1 A" },
  { "expiry × the next start", SILENT_RUNNING, EXPIRE, step("node_bury", A),
    ab = "A; nothing; X building 1 A", ba = "nothing; nothing; X building 1 A" },
  { "takeover × takeover", DEAD_RUNNING, TAKEOVER, TAKEOVER,
    ab = "X#1 pending; none; X pending 1", ba = "none; X#1 pending; X pending 1" },
  { "claim × takeover", DEAD_RUNNING, claim(B), TAKEOVER,
    ab = "none; X#1 pending; X pending 1", ba = "X#2; X#1 pending; X building 2 B",
    a_during_b = "none; X#1 pending; X pending 1" },
  { "progress × takeover", DEAD_RUNNING, PROGRESS, TAKEOVER, after = TAKEOVER,
    ab = "1; X#1 pending; X pending 1", ba = "nothing; X#1 pending; X pending 1",
    b_during_a = "1; none; X pending 1" },
  { "cancel × takeover", DEAD_RUNNING, CANCEL, TAKEOVER, after = TAKEOVER,
    ab = "requested; X#1 cancelled; X cancelled 1 cancel", ba = "cancelled; X#1 pending; X cancelled 1",
    b_during_a = "requested; none; X cancelled 1 cancel" },
  { "success × takeover", DEAD_RUNNING, finish(X), TAKEOVER,
    ab = "recorded; none; X success 1", ba = "stale; X#1 pending; X pending 1" },
  { "failure × takeover", DEAD_RUNNING, fail(60), TAKEOVER,
    ab = "recorded pending; none; X pending 1", ba = "stale pending; X#1 pending; X pending 1" },
  { "timeout × takeover", DEAD_RUNNING, finish_end "timedout", TAKEOVER,
    ab = "recorded; none; X timedout 1", ba = "stale; X#1 pending; X pending 1" },
  { "shutdown × takeover", DEAD_RUNNING, REQUEUE, TAKEOVER,
    ab = "recorded; none; X pending 1", ba = "stale; X#1 pending; X pending 1" },

  { "success × cancel", RUNNING, finish(X), CANCEL,
    ab = "recorded; conflict success; X success 1", ba = "recorded; requested; X success 1" },
  { "failure with a retry × cancel", RUNNING, fail(60), CANCEL,
    ab = "recorded pending; cancelled; X cancelled 1", ba = "recorded cancelled; requested; X cancelled 1 cancel" },
  { "failure × cancel", RUNNING, fail(nil), CANCEL,
    ab = "recorded failed; conflict failed; X failed 1", ba = "recorded cancelled; requested; X cancelled 1 cancel" },
  { "the end of a cancelled attempt × cancel", RUNNING, finish_end "cancelled", CANCEL,
    ab = "recorded; conflict cancelled; X cancelled 1", ba = "recorded; requested; X cancelled 1 cancel" },
  { "shutdown × cancel", RUNNING, REQUEUE, CANCEL,
    ab = "recorded; cancelled; X cancelled 1", ba = "recorded; requested; X cancelled 1 cancel" },
  { "progress × cancel", RUNNING, PROGRESS, CANCEL,
    ab = "1; requested; X building 1 A cancel", ba = "1; requested; X building 1 A cancel" },
  { "cancel × cancel of a build that runs", RUNNING, CANCEL, CANCEL,
    ab = "requested; requested; X building 1 A cancel", ba = "requested; requested; X building 1 A cancel" },
  -- The first answer was lost with its connection, and PostgreSQL had not noticed when the write was sent again.
  { "success × the same again", RUNNING, finish(X), finish(X),
    ab = "recorded; repeated; X success 1", ba = "repeated; recorded; X success 1" },
  { "failure × the same again", RUNNING, fail(60), fail(60),
    ab = "recorded pending; repeated pending; X pending 1", ba = "repeated pending; recorded pending; X pending 1" },
  { "timeout × the same again", RUNNING, finish_end "timedout", finish_end "timedout",
    ab = "recorded; repeated; X timedout 1", ba = "repeated; recorded; X timedout 1" },
  { "shutdown × the same again", RUNNING, REQUEUE, REQUEUE,
    ab = "recorded; repeated; X pending 1", ba = "repeated; recorded; X pending 1" },
  { "success × failure", RUNNING, finish(X), fail(60),
    ab = "recorded; stale success; X success 1", ba = "stale; recorded pending; X pending 1" },
  { "success × timeout", RUNNING, finish(X), finish_end "timedout",
    ab = "recorded; stale; X success 1", ba = "stale; recorded; X timedout 1" },
  { "success × shutdown", RUNNING, finish(X), REQUEUE,
    ab = "recorded; stale; X success 1", ba = "stale; recorded; X pending 1" },
  { "success × progress", RUNNING, finish(X), PROGRESS,
    ab = "recorded; nothing; X success 1", ba = "recorded; 1; X success 1" },
  { "success × claim", RUNNING, finish(X), claim(B),
    ab = "recorded; none; X success 1", ba = "recorded; none; X success 1" },
  { "shutdown × claim", RUNNING, REQUEUE, claim(B),
    ab = "recorded; X#2; X building 2 B", ba = "recorded; none; X pending 1",
    b_during_a = "recorded; none; X pending 1" },
  { "success of two × the other way round", BOTH_RUN, finish(X, Y), finish(Y, X),
    ab = "recorded recorded; repeated repeated; X success 1, Y success 1",
    ba = "repeated repeated; recorded recorded; X success 1, Y success 1" },
  { "success of two × takeover", { "insert X", "insert Y", claim(A, 2), DEAD }, finish(Y, X), TAKEOVER,
    ab = "recorded recorded; none; X success 1, Y success 1",
    ba = "stale stale; X#1 pending Y#1 pending; X pending 1, Y pending 1" },

  { "retry × retry", FAILED, RETRY, RETRY,
    ab = "done; conflict pending; X pending 1 round 1", ba = "conflict pending; done; X pending 1 round 1" },
  { "retry × retry of many", FAILED, RETRY, BULK,
    ab = "done; 0; X pending 1 round 1", ba = "conflict pending; 1; X pending 1 round 1" },
  { "retry of many × retry of many", FAILED, BULK, BULK,
    ab = "1; 0; X pending 1 round 1", ba = "0; 1; X pending 1 round 1" },
  { "retry × claim", FAILED, RETRY, claim(B),
    ab = "done; X#2; X building 2 B round 1", ba = "done; none; X pending 1 round 1",
    b_during_a = "done; none; X pending 1 round 1" },
  { "retry × cancel", FAILED, RETRY, CANCEL,
    ab = "done; cancelled; X cancelled 1 round 1", ba = "done; conflict failed; X pending 1 round 1" },
  { "retry × retention", OLD, RETRY, RETENTION, ab = "done; none; X pending 1 round 1", ba = "nothing; X; nothing" },
  { "retry of many × retention", OLD, BULK, RETENTION, ab = "1; none; X pending 1 round 1", ba = "0; X; nothing" },

  -- Of these the state is that of the mail: its claims so far, and who is sending it.
  { "expanding × expanding an event", WAITING, EXPAND, EXPAND, mails = true,
    ab = "taken; nothing; nothing", ba = "nothing; taken; nothing" },
  { "mail: claim × claim", MAIL_WAITS, claim_mail(A), claim_mail(B), mails = true,
    ab = "sending; nothing; Y sending 1 A", ba = "nothing; sending; Y sending 1 B" },
  { "mail: claim × cancel", MAIL_WAITS, claim_mail(A), MAIL_CANCEL, mails = true,
    ab = "sending; conflict sending; Y sending 1 A", ba = "nothing; done; Y cancelled 0" },
  { "mail: claim × requeue", MAIL_WAITS, claim_mail(A), MAIL_AGAIN, mails = true,
    ab = "sending; conflict sending; Y sending 1 A", ba = "sending; done; Y sending 1 A",
    a_during_b = "nothing; done; Y waiting 0" },
  { "mail: takeover × takeover", MAIL_LEFT, MAIL_TAKEOVER, MAIL_TAKEOVER, mails = true,
    ab = "Y; nothing; Y waiting 1", ba = "nothing; Y; Y waiting 1" },
  { "mail: sent × takeover", MAIL_LEFT, outcome_of "sent", MAIL_TAKEOVER, mails = true,
    ab = "sent; nothing; Y sent 1", ba = "stale; Y; Y waiting 1" },
  { "mail: sent × release", MAIL_SENDING, outcome_of "sent", MAIL_RELEASE, mails = true,
    ab = "sent; nothing; Y sent 1", ba = "stale; Y; Y waiting 1" },
  { "mail: sent × the same again", MAIL_SENDING, outcome_of "sent", outcome_of "sent", mails = true,
    ab = "sent; repeated; Y sent 1", ba = "repeated; sent; Y sent 1" },
  { "mail: sent × a failed try", MAIL_SENDING, outcome_of "sent", outcome_of "retry", mails = true,
    ab = "sent; stale; Y sent 1", ba = "stale; waiting; Y waiting 1" },
  { "mail: sent × cancel", MAIL_SENDING, outcome_of "sent", MAIL_CANCEL, mails = true,
    ab = "sent; conflict sent; Y sent 1", ba = "sent; conflict sending; Y sent 1" },
  { "mail: sent × once more", MAIL_SENDING, outcome_of "sent", MAIL_AGAIN, mails = true,
    ab = "sent; done; Y waiting 1", ba = "sent; conflict sending; Y sent 1" },

  { "mail: sent × release and the same server's next claim", MAIL_SENDING, { outcome_of "sent", COMMIT },
    { MAIL_RELEASE, COMMIT, claim_mail(A), COMMIT }, mails = true,
    any = {
      "sent; nothing, nothing; Y sent 1", "stale; Y, sending; Y sending 2 A",
      "stale; Y, nothing; Y waiting 1", -- the stale answer is not committed yet: the next claim finds it
    } },

  { "success × takeover and the next claim", DEAD_RUNNING, { finish(X), COMMIT },
    { TAKEOVER, COMMIT, claim(B), COMMIT },
    any = {
      "recorded; none, none; X success 1", "stale; X#1 pending, X#2; X building 2 B",
      "stale; X#1 pending, none; X pending 1", -- the stale write is not committed yet: the next claim finds it
    } },
  { "heartbeat and claim × expiry and takeover", { "insert X", claim(A), "insert Y", SILENT },
    { HEARTBEAT, COMMIT, claim(A), COMMIT }, { EXPIRE, COMMIT, TAKEOVER, COMMIT }, after = TAKEOVER,
    any = {
      "alive, Y#1; nothing, none; X building 1 A, Y building 1 A", -- it was in time
      "dead, none; A, X#1 pending; X pending 1, Y pending 0", -- it was too late, and is told so
    } },
  { "failure and the next claim × cancel", RUNNING, { fail(0), COMMIT, claim(B), COMMIT }, { CANCEL, COMMIT },
    any = {
      "recorded cancelled, none; requested; X cancelled 1 cancel", "recorded pending, none; cancelled; X cancelled 1",
      "recorded pending, X#2; requested; X building 2 B cancel",
    } },
  { "success × cancel and retry", RUNNING, { finish(X), COMMIT }, { CANCEL, COMMIT, RETRY, COMMIT },
    any = {
      "recorded; conflict success, done; X pending 1 round 1", "recorded; requested, done; X pending 1 round 1",
      "recorded; requested, conflict building; X success 1",
    } },
}

-- None of these ever waits for what another session has locked: claims, takeovers and clean-ups go on with the rest.
local NEVER_WAITS <const> = { claim = true, claim_chosen = true, takeover = true, bulk_retry = true, retention = true,
  commit = true, outbox_take = true, deliveries_claim = true, deliveries_takeover = true }

-- What was answered, in few words ---------------------------------------------------------------------------------

local function named(text)
  return (text:gsub("%x+%-%x+%-%x+%-%x+%-%x+", NAMES))
end

local function lines_of(answer, format)
  local list = {}
  for line in answer:gmatch "[^\n]+" do list[#list + 1] = format(line) end
  return #list > 0 and table.concat(list, " ") or "none"
end

local function claimed(answer)
  return lines_of(answer, function(line)
    return (named(line:match '"id" : "([^"]+)"') .. "#" .. line:match '"attempt" : (%d+)')
  end)
end

local SAY <const> = {
  claim = claimed,
  claim_chosen = claimed,
  takeover = function(answer)
    return lines_of(answer, function(line) return (named(line):gsub("|", "#", 1):gsub("|", " ")) end)
  end,
  retention = function(answer) return lines_of(answer, function(line) return named(line):match "^[^|]*" end) end,
  nodes_expire = function(answer) return answer:match "|(.*)" or "nothing" end,
  node_heartbeat = function(answer)
    if answer == "" then return "dead" end
    local cancel = named(answer):match '"cancels": %[{.-"id": "(%a)"'
    return "alive" .. (cancel and ", cancel " .. cancel or "")
  end,
  outbox_take = function(answer) return answer ~= "" and "taken" or "nothing" end,
  deliveries_claim = function(answer) return answer:match "^%a+" or "nothing" end,
  enqueue_all = function() return "accepted" end,
  pause = function() return "paused" end,
  bulk_retry = function(answer) return answer:match "%d+" end,
}

local function said(name, answer)
  if answer:find "^ERROR" then return answer end
  if SAY[name] then return SAY[name](answer) end
  local outcome = answer:match '"outcome": "(%a+)"'
  if outcome then
    return outcome == "conflict" and "conflict " .. answer:match '"stat%a+": "(%a+)"' or outcome
  end
  return answer ~= "" and named(answer):gsub("[|\n]", " ") or "nothing"
end

-- What must hold, whatever the order was ----------------------------------------------------------------------------

-- A row for each fault.
local FAULTS <const> = [[
select 'a gap in its history' from build_queue b where (select array_agg(seq order by seq) from build_events e
    where e.build_id = b.id) is distinct from (select array_agg(n) from generate_series(1, b.event_seq) as n)
union all select 'its history told ahead' from build_queue where told > event_seq
union all select 'it runs nowhere' from build_queue b where status = 'building' and not exists
    (select from build_attempts a where a.build_id = b.id and a.attempt = b.attempt and a.node_id = b.node_id
     and a.ended_at is null)
union all select 'it has a node and does not run' from build_queue where status <> 'building' and node_id is not null
union all select 'an attempt that nobody ended' from build_attempts a join build_queue b on b.id = a.build_id
    where a.ended_at is null and (b.status <> 'building' or b.attempt <> a.attempt)
union all select 'an attempt that ended while it runs' from build_attempts a join build_queue b on b.id = a.build_id
    and a.attempt = b.attempt where b.status = 'building' and a.ended_at is not null
union all select 'claims that were not noted' from build_queue b
    where attempt <> (select count(*) from build_attempts a where a.build_id = b.id)
       or attempt <> (select count(*) from build_events e where e.build_id = b.id and type = 'started')
union all select 'an end without a time' from build_queue
    where (status in ('pending', 'building')) <> (completed_at is null)
union all select 'it waits and is cancelled' from build_queue
    where status = 'pending' and cancel_requested_at is not null
union all select 'two ends in a round' from build_events where type in ('success', 'failed', 'timedout', 'cancelled')
    group by build_id, round having count(*) > 1
union all select 'its last event is not its end' from build_queue b where status not in ('pending', 'building')
    and status <> (select type from build_events e where e.build_id = b.id order by seq desc limit 1)
union all select 'an event that is not owed' from build_events e where type in ('queued', 'started', 'success',
    'failed', 'timedout', 'cancelled', 'retrying') and exists (select from build_queue b where b.id = e.build_id)
    and not exists (select from outbox o where o.build_id = e.build_id
    and o.round = e.round and o.event = case type when 'success' then 'completed' else type end
    and (type <> 'retrying' or o.attempt = e.attempt))
union all select 'what is owed for nothing' from outbox o where not exists (select from build_events e
    where e.build_id = o.build_id and e.round = o.round
    and o.event = case e.type when 'success' then 'completed' else e.type end)
union all select 'rows of a build that is gone' from build_attempts where build_id not in (select id from build_queue)]]

local STATE <const> = [[select string_agg(concat_ws(' ', b.id, b.status, b.attempt, b.node_id,
    case when cancel_requested_at is not null then 'cancel' end, case when round > 0 then 'round ' || round end,
    case when claim_key < 100 then 'key ' || claim_key end,
    (select 'to place' from builds_to_place where build_id = b.id)), ', ' order by b.id) from build_queue b]]

local MAILS <const> = [[select string_agg(concat_ws(' ', id, state, claim, node_id), ', ' order by id) from deliveries]]

local CLEAN <const> = [[delete from build_queue; delete from build_events; delete from builds_to_place;
  delete from nodes;
  update queue_control set paused = false, pause_reason = null, paused_at = null, priority_policy = null]]

local function insert(id)
  return ([[insert into build_queue (id, customer_id, customer_name, customer_email, configuration_name, manifest_path,
    tier, architecture, cloud_provider, priority, enqueued_at) values ('%s', 'acme', 'Acme', 'a@acme.example', 'web',
    'web.json', 'pro', 'linux-x64', 'aws', 1, now() - interval '1 minute' %s)]]):format(id, id == Y and
    "+ interval '1 second'" or "")
end

local function prepare(given)
  local before = { CLEAN }
  for node, name in pairs { [A] = "A", [B] = "B", [C] = "C" } do
    before[#before + 1] = watcher:text(step("node_join", node, name, "http://127.0.0.1", "1.0", 4, 30, "[]", "false"))
  end
  -- Judges have been there for long enough.
  before[#before + 1] = "update nodes set unbroken_since = now() - interval '1 day'"
  for _, what in ipairs(given) do
    if what == "insert X" or what == "insert Y" then what = insert(what == "insert X" and X or Y) end
    before[#before + 1] = type(what) == "table" and watcher:text(what) or what
  end
  local answer = watcher:ask(table.concat(before, ";\n"))
  assert.is_nil(answer:find "ERROR", answer)
end

-- Running them ------------------------------------------------------------------------------------------------------

local function steps_of(what) return type(what[1]) == "table" and what or { what, COMMIT } end

-- What a pair with one statement each must come to in this order.
local function expected(pair, order)
  if order:find "^aabb" then return pair.ab end
  if order:find "^bbaa" then return pair.ba end
  if order:find "^a" then return pair.b_during_a or pair.ab end
  return pair.a_during_b or pair.ba
end

-- What has come of it, and what is wrong with it, a line each.
local function outcome(pair, steps, result)
  local words = {}
  for _, letter in ipairs { "a", "b" } do
    local list = {}
    for _, each in ipairs(steps[letter]) do
      local answer = result.answers[letter][#list + 1]
      if each[1] ~= "commit" then list[#list + 1] = said(each[1], answer) end
    end
    words[#words + 1] = table.concat(list, ", ")
  end
  if pair.after then watcher:ask(watcher:text(pair.after)) end
  local lines = watcher:ask((pair.mails and MAILS or STATE) .. ";\n" .. FAULTS) .. "\n"
  local state, faults = lines:match "^([^\n]*)\n(.*)"
  words[#words + 1] = state ~= "" and named(state) or "nothing"
  return table.concat(words, "; "), faults
end

local function run(pair)
  local steps = { a = steps_of(pair[3]), b = steps_of(pair[4]) }
  local seen, possible = {}, 0
  for _, order in ipairs(sessions.interleavings(#steps.a, #steps.b)) do
    prepare(pair[2])
    local result = sessions.interleave(two, watcher, steps, order)
    for name in pairs(result.waited) do assert.is_nil(NEVER_WAITS[name], order .. ": " .. name .. " waits") end
    if result.possible then
      local came, faults = outcome(pair, steps, result)
      possible, seen[came] = possible + 1, true
      if pair.any then
        local allowed = {}
        for _, text in ipairs(pair.any) do allowed[text] = true end
        assert.is_true(allowed[came], ("%s: %s"):format(order, came))
      else
        assert.equal(expected(pair, order), came, order)
      end
      assert.equal("", faults, ("%s: %s"):format(order, came))
    end
  end
  for _, text in ipairs(pair.any or {}) do assert.is_true(seen[text], "in no order: " .. text) end
  assert.is_true(possible >= 4)
end

describe("two sessions in every interleaving:", function()
  setup(function()
    local server = Server.new()
    assert.equal(0, server:command({ "migrate" }).code)
    two = { a = sessions.open(server.database), b = sessions.open(server.database) }
    watcher = sessions.open(server.database)
  end)

  for _, pair in ipairs(PAIRS) do
    it(pair[1], function() run(pair) end)
  end

  -- Else it and a batch of outcomes could each wait for what the other has.
  it("a clean-up of builds locks what is owed for them in the order of ids, not as it lies", function()
    for _, kind in ipairs { "outbox", "deliveries" } do
      prepare { "insert X", "insert Y" }
      -- Y's event and mail have the smaller ids, and lie behind those of X.
      watcher:ask(([[delete from outbox;
        insert into outbox (id, build_id, event, round, attempt) overriding system value
          values (1000002, '%s', 'queued', 0, 0), (1000001, '%s', 'queued', 0, 0);
        insert into deliveries (id, outbox_id, build_id, event, channel, recipient, template) values
          ('00000000-0000-0000-0000-000000000002', 1000002, '%s', 'queued', 'email', 'x@x', 'queued'),
          ('00000000-0000-0000-0000-000000000001', 1000001, '%s', 'queued', 'email', 'y@x', 'queued')]])
        :format(X, Y, X, Y))
      two.a:ask "begin"
      two.a:ask(("select id from %s where build_id = '%s' for update"):format(kind, Y))
      two.b:send "delete from build_queue"
      process.wait_for(function()
        return watcher:ask(("select cardinality(pg_blocking_pids(%d))"):format(two.b.pid)) == "1"
      end, 10, "the clean-up to wait")
      local free = watcher:ask(([[select count(*) from
        (select from %s where build_id = '%s' for update skip locked) as rows]]):format(kind, X))
      assert.equal("1", free, kind .. ": it has what comes later")
      two.a:ask "commit"
      process.wait_for(function() return two.b:done() end, 10, "the clean-up to end")
      assert.equal("", two.b.answer)
      two.b:ask "commit"
      assert.equal("0", watcher:ask "select count(*) from deliveries")
    end
  end)
end)
