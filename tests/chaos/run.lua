-- Lets servers work while things go wrong, and reads their history afterwards: lua5.4 tests/chaos/run.lua [--seed N]
-- [--seconds N] [--servers N] [--rate N] [--check FILE]. `make chaos` calls it in namespaces of its own
-- (isolated.sh); README.md of this room says what happens and what is checked.
package.path = "./?.lua;" .. package.path
local alone = require "spec.support.alone"

local uv = require "luv"
local json = require "dkjson"
local process = require "spec.support.process"
local World = require "tests.chaos.world"
local Load = require "tests.chaos.load"
local faults = require "tests.chaos.faults"
local history = require "tests.chaos.history"
local check = require "tests.chaos.check"

local LEASE_SECONDS <const> = 3
local SETTLE_SECONDS <const> = 120 -- until everything that was accepted has ended, once nothing goes wrong any more
local SWEEP_SECONDS <const> = 40   -- until a started server has removed what is left over
local SAMPLE <const> = 40          -- downloads that are looked at

local options = { seed = os.time() % 1000000, seconds = 300, servers = 3, rate = 6 }
local function usage(message)
  io.stderr:write("chaos: ", message, " (--seed N --seconds N --servers N --rate N --check FILE)\n")
  os.exit(2)
end
for i = 1, #arg, 2 do
  local name = arg[i]:match "^%-%-(%l+)$"
  if name == "check" then
    options.check = arg[i + 1] or usage "--check needs a file"
  elseif name and options[name] then
    options[name] = tonumber(arg[i + 1]) or usage(arg[i] .. " needs a number")
  else
    usage("unknown argument " .. arg[i])
  end
end

-- A generator of its own for each that picks, so that one's picks don't depend on how far another one came.
local function generator(seed)
  local state = seed * 2654435761 + 88172645463325252
  return function(m)
    state = state ~ (state << 13)
    state = state ~ (state >> 7)
    state = state ~ (state << 17)
    return (state >> 11) % m + 1
  end
end

local function say(...)
  print(string.format(...))
  io.stdout:flush()
end

local function show(verdicts)
  local broken = 0
  for _, verdict in ipairs(verdicts) do
    say("%-62s %s", verdict.rule, verdict.count == 0 and "holds" or ("BROKEN, %d times"):format(verdict.count))
    for _, text in ipairs(verdict.examples) do say("    %s", text) end
    if verdict.count > 0 then broken = broken + 1 end
  end
  say("%s", broken == 0 and "chaos: nothing was lost" or ("chaos: %d rules are broken"):format(broken))
  return broken == 0
end

if options.check then os.exit(show(check.run(assert(json.decode(process.read(options.check), 1, nil)))) and 0 or 1) end

-- The fault to come, by weight.
local function pick(chaos)
  local total = 0
  for _, fault in ipairs(faults) do total = total + fault.weight end
  local at = chaos.random(total)
  for _, fault in ipairs(faults) do
    at = at - fault.weight
    if at <= 0 then return fault end
  end
end

local Chaos = {}
Chaos.__index = Chaos

function Chaos:later(seconds, undo)
  table.insert(self.undos, { at = self.world:time() + seconds, undo = undo, fault = self.current })
end

-- Undoes what is due, or everything.
function Chaos:undo(all)
  for i = #self.undos, 1, -1 do
    local each = self.undos[i]
    if all or each.at <= self.world:time() then
      table.remove(self.undos, i)
      each.undo()
      self.busy[each.fault.name] = nil
    end
  end
end

function Chaos:strike()
  local fault = pick(self)
  if fault.once and self.busy[fault.name] then return end
  self.current = fault
  if fault.run(self) == false then return end
  self.busy[fault.name] = fault.once
  self.counts[fault.name] = (self.counts[fault.name] or 0) + 1
  self.journal[#self.journal + 1] = ("%7.2f %s"):format(self.world:time(), fault.name)
end

local function torment(world, load)
  local chaos = setmetatable({ world = world, load = load, random = generator(options.seed), undos = {}, busy = {},
    counts = {}, journal = {} }, Chaos)
  local next_at = 2
  while world:time() < options.seconds do
    process.pump(10)
    world:tend()
    chaos:undo(false)
    if world:time() >= next_at then
      next_at = world:time() + chaos.random(100) / 60
      chaos:strike()
    end
  end
  load:stop()
  chaos:undo(true)
  return chaos
end

local function wait(world, seconds, condition)
  local ok = pcall(process.wait_for, function()
    world:tend()
    return condition()
  end, seconds)
  return ok
end

-- What is still to come: builds that have not ended, mails that have not been sent.
local UNSETTLED <const> = [[select (select count(*) from build_queue where status in ('pending', 'building'))
  + (select count(*) from outbox where state = 'pending')
  + (select count(*) from deliveries where state in ('waiting', 'sending', 'faulty'))]]

local function settle(world, load)
  for _, node in ipairs(world.nodes) do if node.stopped then world:freeze(node, false) end end
  local server = world.nodes[1].server
  server:sql "update queue_control set paused = false, pause_reason = null, paused_at = null where paused"
  return wait(world, SETTLE_SECONDS, function()
    return load.open == 0 and server:sql(UNSETTLED) == "0"
  end)
end

-- Stops every server and starts all again as if minutes had passed, so that they sweep what is left over.
local function start_later(world)
  for _, node in ipairs(world.nodes) do
    node.wanted = false
    if node.server.child:alive() then world:finish(node, "sigterm", 0) end
  end
  wait(world, 30, function()
    return #world:which(function(node) return node.server.child:alive() end) == 0
  end)
  local server = world.nodes[1].server
  server:sql(("alter database %s set buildq.clock_offset = '5 minutes'"):format(world.database))
  for _, node in ipairs(world.nodes) do node.wanted = true end
  wait(world, 30, function() return #world:awake() == #world.nodes end)
end

-- Each server hands out what any of them has made, and it is what the successful attempt made.
local function read_downloads(world, record)
  local left = SAMPLE
  for _, build in ipairs(record.builds) do
    if build.status == "success" and build.pipeline == "compile" and left > 0 then
      left = left - 1
      local node = world.nodes[left % #world.nodes + 1]
      local answer = node.server:get(("/downloads/%s/out.txt"):format(build.id))
      if answer.status ~= 200 or answer.body ~= ("attempt %d\n"):format(build.attempt) then
        record.unreadable[#record.unreadable + 1] = ("%s, attempt %d, through server %d: %d %s"):format(build.id,
          build.attempt, node.number, answer.status, answer.body)
      end
    end
  end
end

local function examine(world, load)
  local committed = {}
  if not settle(world, load) then say("after %d seconds not everything has ended", SETTLE_SECONDS) end
  wait(world, 10, function() return #history.strangers() == 0 end)
  local strangers = history.strangers()
  start_later(world)
  local record = history.read(world, load)
  record.strangers, record.unreadable = strangers, {}
  for _, build in ipairs(record.builds) do if build.status == "success" then committed[build.id] = build.attempt end end
  wait(world, SWEEP_SECONDS, function() return #history.leftovers(world, committed) == 0 end)
  record.leftovers = history.leftovers(world, committed)
  local ok, message = pcall(read_downloads, world, record)
  if not ok then record.unreadable[1] = message end
  return record
end

local function main()
  local disk = assert(os.getenv "CHAOS_DISK", "run it with `make chaos`: it needs a small disk of its own")
  say("chaos: seed %d, %d s, %d servers, %g builds/s", options.seed, options.seconds, options.servers, options.rate)
  local world = World.new { disk = disk, count = options.servers, lease = LEASE_SECONDS }
  world.nodes[1].server:sql(history.AUDIT)
  local load = Load.new(world, generator(options.seed + 1))
  load:start(options.rate)
  local chaos = torment(world, load)
  local record = examine(world, load)
  record.journal = chaos.journal
  local names = {}
  for name in pairs(chaos.counts) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do say("%-62s %d times", name, chaos.counts[name]) end
  say("%-62s %d, in %d attempts", "builds", #record.builds, #record.attempts)
  say("%-62s %d, in %d copies", "mails", #record.deliveries, #record.mails)
  local path = os.getenv "CHAOS_HISTORY" or "build/chaos-history.json"
  process.write(path, json.encode(record))
  local good = show(check.run(record))
  if not good then
    say("the history is in %s; logs of the servers:", path)
    for _, node in ipairs(world.nodes) do
      local copy = ("%s.%d.log"):format(path, node.number)
      process.write(copy, node.server:log())
      say("  %s", copy)
    end
  end
  return good
end

local ok, good = xpcall(main, debug.traceback)
if not ok then io.stderr:write("chaos: ", good, "\n") end
alone.finish()
uv.run "nowait"
os.exit(ok and good and 0 or 1)
