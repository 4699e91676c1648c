-- Random programs of protected calls, handlers, errors, coroutines and variables that close, in which each step is
-- noted. Run with the same seed in stock Lua and in a script's state: what it returns must be the same.
local seed, rounds = ...

local function random(n)
  seed = (seed * 6364136223846793005 + 1442695040888963407)
  return ((seed >> 33) % n) + 1
end

local line

-- Addresses differ, and stock Lua finds names for what is called from C in a table of modules, which scripts lack.
local function note(...)
  for i = 1, select("#", ...) do
    local text = tostring((select(i, ...))):gsub("0x%x+", "ADDRESS")
    line[#line + 1] = text:gsub("to '[%w_.?]+' %(", "to it (")
  end
  return ...
end

local VALUES <const> = {
  function() return nil end, function() return 1 end, function() return "text" end, function() return true end,
  function() return {} end, function() return 2.5 end, function() return type end,
  function() return setmetatable({}, { __tostring = function() return "an object" end }) end,
}
local function value() return VALUES[random(#VALUES)]() end

local step -- (depth, inside): runs a random step; returns what it returns. inside: in a coroutine of ours

local function steps(depth, inside)
  for _ = 1, random(3) do step(depth, inside) end
  return value(), random(5)
end

local function closer(depth)
  return setmetatable({}, { __close = function(_, why)
    note("close", why)
    if random(5) == 1 then step(depth - 1, false) end
    if random(8) == 1 then error "in close" end
  end })
end

-- Notes an xpcall, and while it runs that this coroutine is inside of one.
local guarded = {}
local function guard(...)
  local co = coroutine.running()
  guarded[co] = (guarded[co] or 0) + 1
  note("xpcall", xpcall(...))
  guarded[co] = guarded[co] - 1
end

-- One that is suspended inside an xpcall is not closed: Lua 5.4.4 leaves the place of the handler on the stack in force
-- then, and an error in a __close calls whatever lies there by now (mended in 5.4.5).
local function resume_all(co, depth)
  for _ = 1, 4 do
    note("status", coroutine.status(co))
    note("resumed", coroutine.resume(co, value(), depth))
    if coroutine.status(co) == "dead" then break end
  end
  if random(2) == 2 or (guarded[co] or 0) > 0 then return end
  note("closed", pcall(coroutine.close, co))
  note(coroutine.status(co))
end

local STEPS <const> = {
  function() note("value", value()) end,
  function() error(value(), random(3) - 1) end,
  function() error("at " .. random(100)) end,
  function() local nothing <const> = nil return nothing.field end,
  function() return 1 + {} end,
  function(depth, inside) note("pcall", pcall(steps, depth, inside)) end,
  function(depth, inside) note("pcall", pcall(step, depth, inside)) end,
  function() note("pcall", pcall(error)) end,
  function() note("pcall", pcall(value())) end,
  function() note("pcall", pcall()) end,
  function(depth, inside)
    guard(steps, function(e) note("handler", e) return e end, depth, inside)
  end,
  function(depth, inside)
    -- How often it is called until the C stack is full is nobody's business.
    guard(steps, function() error "again" end, depth, inside)
  end,
  function(depth)
    guard(step, function(e) step(depth - 1, false) return tostring(e) .. "!" end, depth, false)
  end,
  function() note("xpcall", pcall(xpcall, value())) end,
  function() note("xpcall", xpcall(value(), type)) end,
  function(_, inside) if inside then note("yielded", coroutine.yield(value(), random(9))) end end,
  function(_, inside) if inside then for i = 1, 3 do note("yielded", coroutine.yield(i)) end end end,
  function(depth) note("wrap", coroutine.wrap(steps)(depth, true)) end,
  function(depth)
    local f = coroutine.wrap(steps)
    for _ = 1, 3 do note("wrap", pcall(f, depth, true)) end
  end,
  function(depth) resume_all(coroutine.create(function() return steps(depth, true) end), depth) end,
  function(depth)
    resume_all(coroutine.create(function(...)
      note("arguments", ...)
      local _ <close> = closer(depth)
      coroutine.yield "first"
      return steps(depth, true)
    end), depth)
  end,
  function(depth, inside)
    local _ <close> = closer(depth)
    return steps(depth, inside)
  end,
  function(depth)
    local co = coroutine.create(function() local _ <close> = closer(depth) coroutine.yield() end)
    coroutine.resume(co)
    note("close", pcall(coroutine.close, co))
  end,
  function(depth, inside)
    for i in coroutine.wrap(function() for i = 1, 3 do step(depth - 1, true) coroutine.yield(i) end end) do
      note("for", i)
      step(depth - 1, inside)
    end
  end,
  function(_, inside)
    local co, main = coroutine.running()
    -- Not inside: below a sort, for instance, which lets yield here but not in stock Lua.
    note(type(co), main == not inside or "nested", not inside or coroutine.isyieldable())
    note(pcall(coroutine.resume, co))
    note(pcall(coroutine.close, co))
  end,
  function() note(pcall(coroutine.create, value())) note(pcall(coroutine.status, value())) end,
  function(depth) table.sort({ 3, 1, 2 }, function(a, b) step(depth - 1, false) return a < b end) end,
  function(depth, inside) local f = load "local s, d, i = ... s(d, i) return 'loaded'" note(f(step, depth, inside)) end,
  function()
    note(load(({ "return 1 +", "x = = 1", "return ...", "goto out", "\27Lua" })[random(5)], "=chunk", "t"))
  end,
  function() note(load(function() error "in the reader" end)) end,
  function() note(select(random(4) - 2, value(), value())) end,
  function() note(pcall(setmetatable, value(), value())) end,
  function() note(pcall(rawset, value(), random(2), value())) note(pcall(rawget, value(), 1)) end,
  function() note(getmetatable(setmetatable({}, { __metatable = "mine" }))) end,
  function() setmetatable(setmetatable({}, { __metatable = 1 }), {}) end,
  function() note(tostring(value()), tonumber(value() or "0x1p4"), tonumber("z", 36)) end,
}

function step(depth, inside)
  if depth <= 0 then return note "bottom" end
  local which = random(#STEPS)
  note("s" .. which)
  return STEPS[which](depth - 1, inside)
end

local lines = {}
for round = 1, rounds do
  line = { round }
  for _ = 1, 3 do note(pcall(step, 5, false)) end
  lines[#lines + 1] = table.concat(line, "|"):gsub("\n", "\\n")
end
return table.concat(lines, "\n")
