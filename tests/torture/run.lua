-- Fails each call that can fail, one at a time, and looks at what becomes of it: lua5.4 tests/torture/run.lua
-- [--seed N] [--seconds N] [--sample N] [--only SCENARIO] [--class CLASS] [--call NAME]. `make torture` calls it;
-- README.md of this room says what is done and what is checked.
package.path = "./?.lua;" .. package.path
local alone = require "spec.support.alone"

local uv = require "luv"
local json = require "dkjson"
local process = require "spec.support.process"
local World = require "tests.torture.world"
local control = require "tests.torture.control"
local plan = require "tests.torture.plan"
local scenarios = require "tests.torture.scenarios"

local KINDS <const> = { "crash", "leak", "lost", "left", "wrong", "unclear" }
local JOURNAL <const> = os.getenv "TORTURE_JOURNAL" or "build/torture.jsonl"

local options = { seed = os.time() % 1000000, seconds = 3600 }
local NUMBERS <const> = { seed = true, seconds = true, sample = true }
local WORDS <const> = { only = true, class = true, call = true }
for i = 1, #arg, 2 do
  local name = arg[i]:match "^%-%-(%l+)$"
  options[name or ""] = NUMBERS[name] and tonumber(arg[i + 1]) or WORDS[name] and arg[i + 1] or nil
  if not name or not options[name] then
    io.stderr:write("torture: what is ", arg[i], "? (--seed N --seconds N --sample N --only SCENARIO --class CLASS ",
      "--call NAME)\n")
    os.exit(2)
  end
end

local function say(...)
  print(string.format(...))
  io.stdout:flush()
end

local state = options.seed * 2654435761 + 88172645463325252
local function random(m)
  state = state ~ (state << 13)
  state = state ~ (state >> 7)
  state = state ~ (state << 17)
  return (state >> 11) % m + 1
end

-- --- names of places ---------------------------------------------------------------------------------------------

local names = {}

-- Return addresses → "function file:line".
local function name_frames(program, lists)
  local wanted, known = {}, {}
  for _, frames in ipairs(lists) do
    for _, address in ipairs(frames) do
      if not names[address] and not known[address] then
        known[address] = true
        wanted[#wanted + 1] = address
      end
    end
  end
  if #wanted == 0 then return end
  local lines = {}
  for i, address in ipairs(wanted) do lines[i] = ("0x%x"):format(address - 1) end
  local text = process.check({ "addr2line", "-f", "-e", program }, { stdin = table.concat(lines, "\n") .. "\n" })
  local i = 0
  for name, where in text:gmatch "([^\n]*)\n([^\n]*)\n?" do
    i = i + 1
    names[wanted[i]] = ("%s %s"):format(name, (where:match "([^/]*/[^/]*)$" or where):gsub(" %(.*", ""))
  end
end

local function describe(place, frames)
  local list = { place.name }
  for _, address in ipairs(frames or place.frames) do
    if not names[address]:find "^__wrap_" then list[#list + 1] = names[address] end
  end
  return table.concat(list, " < ")
end

-- --- one failing call -----------------------------------------------------------------------------------------------

local function add(seen, kind, ...) table.insert(seen.findings, { kind = kind, text = string.format(...) }) end

-- The lines of a log that tell of trouble.
local function complaints(log)
  local list = {}
  for line in log:gmatch "[^\n]+" do
    if line:find "^%S+ warn " or line:find "^%S+ error " or not line:find "^%d%d%d%d%-" then list[#list + 1] = line end
  end
  return list
end

local function look_at_end(world, scenario, seen, log)
  local child = world.server.child
  if child:alive() then return end
  local report = log:match "[^\n]*ERROR: %a+Sanitizer.*" or log:match "[^\n]*runtime error:.*"
  -- Whoever can't go on ends the process without tidying up: the system does that.
  if scenario.starts and report and report:find "LeakSanitizer" and log:find("the server could not go on", 1, true) then
    return
  end
  if report and report:find "LeakSanitizer" then
    add(seen, "leak", "%s", report:sub(1, 3000))
  elseif report or child.signal ~= 0 or child.code ~= 0 and not (scenario.starts and child.code == 1) then
    add(seen, "crash", "code %d, signal %d: %s", child.code, child.signal, (report or log):sub(-4000))
  elseif not scenario.starts then
    add(seen, "crash", "the server ended with code %d: %s", child.code, log:sub(-1000))
  end
end

-- The server goes on: another build succeeds, nothing is left, no memory is lost.
local function look_behind(world, seen)
  local id = world:submit "quick"
  local build = id and world:finish_build(id)
  if not build or build.status ~= "success" then
    add(seen, "lost", "afterwards a build %s", not id and "is not accepted" or "does not succeed")
  end
  if not world.server.child:alive() then return end
  for _, text in ipairs(world:settle()) do add(seen, "left", "%s", text) end
  if world:leaks() then add(seen, "leak", "%s", world.server:log():match ".*(ERROR: LeakSanitizer.*)" or "?") end
end

-- What one failed call has left behind is found once.
local function tidy(world)
  world.server:sql "update deliveries set state = 'cancelled' where state in ('waiting', 'sending', 'faulty')"
  world.server:sql "delete from deliveries where state = 'dead'"
  world.server:sql "update outbox set state = 'skipped' where state = 'pending'"
  process.check { "sh", "-c", 'rm -rf "$1"/builds/*-*', "sh", world.server.directory }
end

-- What a killed or dying server had begun is done by the next one.
local function look_after_end(world, seen)
  world.server:sql "update queue_control set paused = false, pause_reason = null, paused_at = null where paused"
  world:launch()
  local unfinished = "select count(*) from build_queue where status in ('pending', 'building')"
  if not pcall(process.wait_for, function() return world.server:sql(unfinished) == "0" end, 20) then
    add(seen, "lost", "the next start does not end %s builds", world.server:sql(unfinished))
    world.server:sql "update build_queue set status = 'cancelled' where status in ('pending', 'building')"
  end
end

-- What says nothing to whoever reads it.
local VAGUE <const> = { 'failed: *\\?"', "SQLSTATE %)", "%(null%)", ': *"$', "Success" }

-- What needs no line in the log beside it.
local PLAIN <const> = { "out of memory", "not enough memory", "the database can't be reached now",
  "the connection to the database was lost" }

-- A connection that breaks is its peer's business as much as ours: whoever is at its other end sees it.
local SOCKET <const> = { recv = true, send = true }

-- Whether what could be seen of the failure was explained.
local function judge_clarity(seen, log, target)
  seen.complaints = complaints(log)
  for _, line in ipairs(seen.complaints) do
    for _, pattern in ipairs(VAGUE) do
      -- libpq says by itself why it failed, if it has.
      if line:find(pattern) and target.place.class ~= "libpq" then
        add(seen, "unclear", "%s", line)
        break
      end
    end
  end
  if #seen.complaints > 0 or SOCKET[target.place.name] then return end
  for _, sign in ipairs(seen.signs) do
    local says_it = false
    for _, words in ipairs(PLAIN) do says_it = says_it or sign:find(words, 1, true) end
    if not says_it then add(seen, "unclear", "no line of the log explains: %s", sign) end
  end
end

local function try(world, scenario, target)
  local mark = #world.server:log()
  world.control:arm(target)
  local seen, more = scenario.act(world)
  local hit = world.control:disarm()
  local log = world.server:log():sub(mark + 1)
  judge_clarity(seen, log, target)
  look_at_end(world, scenario, seen, log)
  if scenario.starts then return seen, hit end
  local alive = world.server.child:alive()
  if alive then
    if scenario.finish then scenario.finish(world) end
    if scenario.check then scenario.check(world, seen, more) end
    look_behind(world, seen)
  end
  if not world.server.child:alive() then
    if alive then look_at_end(world, scenario, seen, world.server:log():sub(mark + 1)) end
    look_after_end(world, seen)
    tidy(world)
  elseif #seen.findings > 0 then
    world.server:kill "sigkill" -- the next call begins with a server that has nothing on its back
    world.server.child:wait(10)
    look_after_end(world, seen)
    tidy(world)
  end
  if scenario.prepare then scenario.prepare(world) end
  return seen, hit
end

-- --- a scenario -----------------------------------------------------------------------------------------------------

-- Three times: what only comes now and then is not missed so easily.
local function count(world, scenario)
  world.control:clear()
  for _ = 1, scenario.starts and 2 or 3 do
    world.control:arm()
    local seen = scenario.act(world)
    world.control:disarm()
    assert(#seen.findings == 0, seen.findings[1] and seen.findings[1].text)
    if not scenario.starts then world:settle() end
  end
  local places = world.control:places()
  assert(world.control:get "unplaced" == 0, "there are more places than inject.c has room for")
  local lists = {}
  for i, place in ipairs(places) do lists[i] = place.frames end
  name_frames(world.program, lists)
  return places
end

local function choose(places)
  local list = {}
  for _, place in ipairs(places) do
    if (not options.class or place.class == options.class)
      and (not options.call or describe(place):find(options.call, 1, true)) then
      list[#list + 1] = place
    end
  end
  return plan.make(list, random, options.sample)
end

-- `time_ns`: for failing calls; finding them takes what it takes. What is left of it is returned, too.
local function run(world, scenario, time_ns, journal)
  if scenario.starts then
    if world.server.child and world.server.child:alive() then world.server:stop() end
  else
    world:launch()
    if scenario.prepare then scenario.prepare(world) end
  end
  local places = count(world, scenario)
  local targets = choose(places)
  local rows = {}
  for _, class in ipairs(control.CLASSES) do rows[class] = { places = 0, calls = 0, failed = 0, missed = 0 } end
  for _, place in ipairs(places) do
    local row = rows[place.class]
    row.places, row.calls = row.places + 1, row.calls + place.calls // (scenario.starts and 2 or 3)
  end
  local findings, left, until_ns = {}, 0, uv.hrtime() + time_ns
  for _, target in ipairs(targets) do
    if uv.hrtime() > until_ns then
      left = left + 1
    else
      local row = rows[target.place.class]
      local seen, hit = try(world, scenario, target)
      local struck = hit > 0 and world.control:struck() or nil
      name_frames(world.program, { struck })
      local where = describe(target.place, struck)
      if hit == 0 then row.missed = row.missed + 1 else row.failed = row.failed + 1 end
      for _, finding in ipairs(seen.findings) do
        row[finding.kind] = (row[finding.kind] or 0) + 1
        finding.where = where
        finding.nth = target.nth
        findings[#findings + 1] = finding
      end
      journal:write(json.encode { scenario = scenario.name, class = target.place.class, nth = target.nth, hit = hit,
        where = where, signs = seen.signs, complaints = seen.complaints,
        findings = seen.findings }, "\n")
      journal:flush()
    end
  end
  if scenario.finish then scenario.finish(world) end
  return { rows = rows, findings = findings, left = left, left_ns = math.max(0, until_ns - uv.hrtime()) }
end

local function show(name, result)
  for _, class in ipairs(control.CLASSES) do
    local row = result.rows[class]
    if row.places > 0 then
      local text = { ("%-8s %-8s %6d %7d %7d %7d"):format(name, class, row.places, row.calls, row.failed, row.missed) }
      for _, kind in ipairs(KINDS) do text[#text + 1] = ("%7s"):format(row[kind] or "-") end
      say("%s", table.concat(text, " "))
    end
  end
end

local function main()
  say("torture: seed %d%s", options.seed, options.sample and (", a sample of %d"):format(options.sample) or "")
  local time_ns = options.seconds * 1000000000
  local journal = assert(io.open(JOURNAL, "w"))
  local world = World.new()
  world:launch() -- the schema is made, everything lies where it should
  say("%-8s %-8s %6s %7s %7s %7s %7s %7s %7s %7s %7s %7s", "scenario", "class", "places", "calls", "failed", "missed",
    table.unpack(KINDS))
  local all, left = {}, 0
  for i, scenario in ipairs(scenarios) do
    if not options.only or options.only == scenario.name then
      local share = time_ns // (options.only and 1 or #scenarios - i + 1)
      local result = run(world, scenario, share, journal)
      time_ns = time_ns - share + result.left_ns
      show(scenario.name, result)
      table.move(result.findings, 1, #result.findings, #all + 1, all)
      left = left + result.left
    end
  end
  world.server:stop()
  for _, finding in ipairs(all) do
    say("%s: call %d of %s\n    %s", finding.kind, finding.nth, finding.where, finding.text:gsub("\n", "\n    "))
  end
  if left > 0 then say("there was no time left for %d calls", left) end
  say("%s", #all == 0 and "torture: each failure was survived and told" or ("torture: %d findings"):format(#all))
  return #all == 0
end

local ok, good = xpcall(main, debug.traceback)
if not ok then io.stderr:write("torture: ", tostring(good), "\n") end
alone.finish()
uv.run "nowait"
os.exit(ok and good and 0 or 1)
