-- Table functions on random tables, with and without metatables, and random arguments. Run with the same seed in stock
-- Lua and in a script's state: what it returns must be the same.
local seed, rounds = ...

local function random(n)
  seed = (seed * 6364136223846793005 + 1442695040888963407)
  return ((seed >> 33) % n) + 1
end

local line

-- Addresses differ; and 5.4.4 calls the second argument of table.remove the first.
local function note(...)
  for i = 1, select("#", ...) do
    local text = tostring((select(i, ...))):gsub("0x%x+", "ADDRESS")
    line[#line + 1] = text:gsub("#[12] to 'remove'", "#2 to 'remove'")
  end
end

local VALUES <const> = { 1, 2, 3, 4.5, "a", "b", "10", "", true, -7 }
local NUMBERS <const> = { 0, 1, 2, 3, 4, 5, 7, -1, -2, 9, 2.0, "2", 1.5, "x", math.maxinteger, math.mininteger }
local function value() return VALUES[random(#VALUES)] end
local function number() return NUMBERS[random(#NUMBERS)] end

-- A list of up to `most` values, the same kind only now and then; sometimes with more in its hash part.
local function list(most)
  local t = {}
  local kind = random(4)
  for i = 1, random(most + 1) - 1 do
    if kind == 1 then t[i] = random(20)
    elseif kind == 2 then t[i] = "w" .. random(20)
    elseif kind == 3 then t[i] = random(20) / 2
    else t[i] = value() end
  end
  if random(4) == 1 then t.name = "named" end
  return t
end

-- The list behind a metatable that says what is asked of it.
local function proxy(behind)
  return setmetatable({}, {
    __len = function() note "len" return #behind end,
    __index = function(_, key) note("get", key) return behind[key] end,
    __newindex = function(_, key, new) note("set", key, new) behind[key] = new end,
  })
end

local function subject(most)
  local t = list(most)
  local kind = random(5)
  if kind == 1 then return proxy(t), t end
  if kind == 2 then return setmetatable(t, { __name = "mine" }), t end
  return t, t
end

local function show(t)
  note "="
  for i = -1, 12 do
    local element = rawget(t, i)
    if element ~= nil then note(i, element) end
  end
  note(#t, t.name)
end

local function text(t)
  local all = {}
  for i = 1, #t do all[i] = tostring(t[i]) end
  return table.concat(all, " ")
end

local ORDERS <const> = {
  function(a, b) return a < b end,
  function(a, b) return a > b end,
  function(a, b) return tostring(a) < tostring(b) end,
  function(a, b) return #tostring(a) < #tostring(b) end,       -- many are equal
  function() return false end,                                 -- all are
  function() return true end,                                  -- no order
  function(a, b) return a ~= b end,
  function() return random(2) == 1 end,
  function(a, b) return tostring(a) <= tostring(b) and 1 end,
  function() error "order" end,
}

local CALLS <const> = {
  function(t) table.insert(t, value()) end,
  function(t) table.insert(t, number(), value()) end,
  function(t) table.insert(t, number(), value(), 1) end,
  function(t) table.insert(t) end,
  function(t) note(table.remove(t)) end,
  function(t) note(table.remove(t, number())) end,
  function(t) note(table.remove(t, #t)) end,
  function(t) note(table.remove(t, #t + 1)) end,
  function(t) note(table.concat(t)) end,
  function(t) note(table.concat(t, ", ", random(4), random(6) - 1)) end,
  function(t) note(table.concat(t, random(9), NUMBERS[random(#NUMBERS - 2)])) end, -- ours bounds the others
  function(t) note(table.unpack(t)) end,
  function(t) note(table.unpack(t, random(4) - 1, random(8) - 1)) end,
  function(t) note(table.unpack(t, math.maxinteger - 1, math.maxinteger)) end,
  function(t) note(table.move(t, random(4), random(6), random(8) - 2) == t) end,
  function(t) show(table.move(t, random(4), random(6), random(8) - 2, {})) end,
  function(t) table.move(t, 1, 3, number(), t) end,
  function(t) table.move(t, math.maxinteger - 1, math.maxinteger, random(3)) end,
  function(t) table.sort(t) end,
  function(t) table.sort(t, ORDERS[random(#ORDERS)]) end,
  function(t) table.sort(t, number()) end,
  function(t) note(next(table.pack(table.unpack(t)))) end,
  function() table.sort(number()) end,
  function() table.insert(nil, 1) end,
  function() note(table.concat(value())) end,
}

local lines = {}
for round = 1, rounds do
  line = { round }
  local t, behind = subject(8)
  for _ = 1, random(3) do
    note "/"
    note(pcall(CALLS[random(#CALLS)], t))
  end
  show(behind)
  -- Larger ones: what is equal must come out in the same order, too.
  if round % 10 == 0 then
    local large = list(round % 100 == 0 and 3000 or 120)
    note(pcall(table.sort, large, random(3) > 1 and ORDERS[random(5)] or nil))
    note(text(large))
  end
  lines[#lines + 1] = table.concat(line, "|")
end
return table.concat(lines, "\n")
