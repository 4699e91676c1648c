-- Why a build waits, in words: made of what queue.explain answers. Pure Lua: it needs no server.

local check = require "check"

local explain = {}

local UNITS <const> = { { 86400, "d" }, { 3600, "h" }, { 60, "min" } }

--- A duration for people: "45 s", "3 min", "2 h 5 min".
---@param seconds number
---@return string
function explain.duration(seconds)
  local rest = math.max(0, math.floor(seconds + 0.5))
  for index, unit in ipairs(UNITS) do
    if rest >= unit[1] then
      local text = ("%d %s"):format(rest // unit[1], unit[2])
      local smaller = UNITS[index + 1]
      local below = smaller and rest % unit[1] // smaller[1] or 0
      return below > 0 and ("%s %d %s"):format(text, below, smaller[2]) or text
    end
  end
  return ("%d s"):format(rest)
end

local function plural(count, word)
  return ("%d %s%s"):format(count, word, count == 1 and "" or "s")
end

-- What holds a pending build back, the firmest reason first.
local function reasons(facts, ahead)
  local list = check.array()
  local function add(kind, message, at)
    list[#list + 1] = { kind = kind, message = message, ["until"] = at }
  end
  if facts.paused then
    add("pause", "the queue is paused, no build starts: " .. (check.present(facts.pauseReason) or "no reason given"))
  end
  local unmet = check.present(facts.unmetNeeds)
  if unmet then
    add("nodes", ("no server that takes builds offers %s, which it needs (`buildq nodes list` shows what each has)")
      :format(table.concat(unmet, ", ")))
  elseif facts.nodes == 0 then
    add("nodes", "no server takes builds now: none is running, or all are stopping or drained")
  elseif not facts.here.sandbox then
    add("nodes", "this server can't run builds: its sandbox does not work (others may)")
  end
  if not facts.here.disk then
    add("disk", ("the disk of this server is nearly full (%d MB free, DiskReserveMegabytes is %d): it starts no build")
      :format(facts.here.freeMegabytes, facts.here.reserveMegabytes))
  end
  local retry = check.present(facts.retrySeconds)
  if retry then
    add("retry", ("it failed and is tried again in %s"):format(explain.duration(retry)), facts.build.nextAttemptAt)
  end
  local asked = check.present(facts.askedPriority)
  if asked and asked > facts.build.priority then
    add("quota", ("it waits with priority %d instead of %d: %s"):format(facts.build.priority, asked,
      check.present(facts.build.policyReason) or "a policy decided so"))
  end
  local free = math.max(0, facts.slots - facts.running)
  if facts.nodes > 0 and ahead.count >= free then
    local busy = free == 0 and "all slots are busy"
      or "there are fewer free slots than builds before it"
    local before = ahead.count == 0 and "it is the next"
      or ("%s%s before it"):format(plural(ahead.count, "build"), ahead.capped and " or more" or "")
    add("slots", ("%s (%d of %d used), %s"):format(busy, facts.running, facts.slots, before))
  end
  return list
end

-- `least`: there are more builds before it than were looked at, so it may well be later.
local function times(facts, pair, now, least)
  if not pair then return nil end
  return { p50 = pair.p50, p90 = pair.p90, p50At = now(facts.now + pair.p50), p90At = now(facts.now + pair.p90),
    atLeast = least }
end

local ENDED <const> = { success = "it has succeeded", failed = "it has failed", cancelled = "it was cancelled",
  timedout = "it ran longer than it may" }

local function summary(facts, answer)
  local status = facts.build.status
  if ENDED[status] then return ENDED[status] end
  if status == "building" then
    return ("it is running since %s and should end in %s (%s at the latest, nine times of ten)"):format(
      explain.duration(facts.elapsed), explain.duration(answer["end"].p50), explain.duration(answer["end"].p90))
  end
  local first = answer.heldBackBy[1]
  local why = first and first.message or "nothing holds it back"
  if not answer.start then return why end
  if answer.start.atLeast then
    return ("%s; it should not start within %s"):format(why, explain.duration(answer.start.p50))
  end
  if answer.start.p90 < 1 and not first then return "nothing holds it back: it starts at any moment" end
  return ("%s; it should start in %s (%s at the latest, nine times of ten)"):format(why,
    explain.duration(answer.start.p50), explain.duration(answer.start.p90))
end

--- The body of GET /builds/{id}/explain.
---@param facts BuildFacts what queue.explain answered
---@param now fun(unix: number): string
---@return table
function explain.answer(facts, now)
  local build = facts.build
  local capped = build.status == "pending" and facts.ahead > facts.limit
  local answer = {
    id = build.id, status = build.status, estimate = build.estimate, guesses = facts.guesses,
    slots = { total = facts.slots, used = facts.running, free = math.max(0, facts.slots - facts.running) },
    nodes = facts.nodes, heldBackBy = check.array(),
    start = build.status == "pending" and times(facts, facts.startSeconds, now, capped) or nil,
    ["end"] = times(facts, facts.endSeconds, now, capped),
  }
  if build.status == "pending" then
    local ahead = { count = math.min(facts.ahead, facts.limit), capped = capped }
    answer.ahead, answer.aheadCapped = ahead.count, capped
    answer.position = not check.present(facts.retrySeconds) and ahead.count + 1 or nil
    answer.positionText = answer.position and (capped and facts.limit .. "+" or tostring(answer.position)) or nil
    answer.heldBackBy = reasons(facts, ahead)
  end
  answer.summary = summary(facts, answer)
  return answer
end

return explain
