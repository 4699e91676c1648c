-- Pattern functions and rep on random subjects and patterns. Run with the same seed in stock Lua and in a script's
-- state: what it returns must be the same, byte by byte.
local seed, rounds = ...

local function random(n)
  seed = (seed * 6364136223846793005 + 1442695040888963407)
  return ((seed >> 33) % n) + 1
end

local PIECES <const> = {
  "a", "b", "c", ".", "%a", "%d", "%s", "%w", "%u", "%l", "%p", "%c", "%x", "%g", "%A", "%D", "%S", "%W", "%z", "%Z",
  "[ab]", "[^a]", "[a-c]", "[]a]", "[^]]", "[%w_]", "[%]]", "[a-]", "[%a-z]", "[^%s]", "[\0-\x7f]",
  "(", ")", "()", "(a", "b)", "(()", "(.-)", "(%w+)", "(a*)", "*", "+", "-", "?", "^", "$", ".-", ".*", "%a*", "[ab]+",
  "a?", "%1", "%2", "%0", "%9", "%bab", "%b()", "%b", "%bx", "%f[%w]", "%f[^a]", "%f", "%", "[", "[^", "[a", "%%", "%.",
  "x", " ", "\0", "\200",
}
local CHARS <const> = {
  "a", "b", "c", "x", "A", "1", "2", " ", "\n", "]", "[", "%", "_", "-", "(", ")", "\0", "\200", ".",
}
local REPLACEMENTS <const> = {
  "<%0>", "%1", "%2", "r", "", "%", "%%", "%%%1", "%0%0", "a%", "%x", 7, 1.5,
  { a = "A", b = false, ab = 1, [1] = "one" },
  setmetatable({}, { __index = function(_, key) return key .. "!" end }),
  function(...) return select("#", ...) end,
  function(x) if x == "a" then return nil end return x end,
  function() return false end,
  function() return {} end,
  function(x) return #tostring(x) .. tostring(x) end,
  function() error "mine" end,
}
local NUMBERS <const> = { 0, 1, 2, 3, 5, 8, 13, -1, -2, -3, -20, 100, math.maxinteger, math.mininteger, 2.0, "3" }

local function word(list, most)
  local t = {}
  for i = 1, random(most) - 1 do t[i] = list[random(#list)] end
  return table.concat(t)
end

local lines = {}
local line

local function note(...)
  for i = 1, select("#", ...) do
    line[#line + 1] = (tostring((select(i, ...))):gsub("0x%x+", "ADDRESS"))
  end
end

local function try(f, ...)
  local results = table.pack(pcall(f, ...))
  note(table.unpack(results, 1, results.n))
end

local CALLS <const> = {
  function(s, p, n) local a, b, c, d = string.find(s, p, n) note(a, b, c, d) end,
  function(s, p) note(string.find(s, p)) end,
  function(s, p, n) note(string.find(s, p, n, true)) end,
  function(s, p, n) note(string.match(s, p, n)) end,
  function(s, p) note(s:match(p)) end,
  function(s, p) for a, b, c in string.gmatch(s, p) do note(a, b, c) end end,
  function(s, p, n) for a in string.gmatch(s, p, n) do note(a) end end,
  function(s, p) local f = s:gmatch(p) for _ = 1, 5 do note(f()) end end,
  function(s, p) note(string.gsub(s, p, REPLACEMENTS[random(#REPLACEMENTS)])) end,
  function(s, p, n) note(string.gsub(s, p, REPLACEMENTS[random(#REPLACEMENTS)], n)) end,
  function(s, p) note(s:rep(random(6) - 2), s:rep(random(6) - 2, p), (""):rep(random(4), p)) end,
}

for round = 1, rounds do
  line = { round }
  local s, p = word(CHARS, 14), word(PIECES, 7)
  note(("%q %q"):format(s, p))
  for _ = 1, 3 do try(CALLS[random(#CALLS)], s, p, NUMBERS[random(#NUMBERS)]) end
  lines[#lines + 1] = table.concat(line, "|"):gsub("\n", "\\n")
end
return table.concat(lines, "\n")
