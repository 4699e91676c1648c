-- One template's text, turned into a Lua function.
--
--   {{ expression }}                    its value, escaped for the place it stands in
--   {% if e %} {% elseif e %} {% else %} {% end %}
--   {% for name in e %} … {% else %} … {% end %}      else: the list is empty; `loop.index`, `loop.first`, `loop.last`
--   {% include "email/part.html" %}     another template with the same data
--   {% layout "email/layout.html" %}    first thing in a file: its blocks fill those of the layout
--   {% block name %} … {% end %}
--   {# not for the reader #}
--
-- A line that holds nothing but one {% … %} or {# … #} leaves no empty line behind.

local expression = require "template.expression"
local html = require "template.html"

local compiler = {}

local MAX_DEPTH <const> = 50
local PRELUDE <const> = [[
local put, value, field, filter, truth, items, include, block, null, same, other, less, at_most, more, at_least = ...
return function(run, data)
]]

---@class Compiled
---@field code string Lua: a chunk that is given the helpers of template.lua and returns function(run, data)
---@field layout string? path of the layout
---@field blocks string[] names, in order

---@class Compiler
---@field path string
---@field line integer of the tag under way
---@field code string[]
---@field open {tag: string, line: integer, place: HtmlPlace?, after: HtmlPlace?, name: string?, has_else: boolean?}[]
---@field scope table<string, string>
---@field place HtmlPlace? nil in plain text
---@field layout string?
---@field blocks string[]
---@field block_names table<string, boolean>
---@field seen_output boolean?
---@field is_known_filter fun(name: string): boolean

local function failer(c)
  return function(message) error(("%s:%d: %s"):format(c.path, c.line, message), 0) end
end

local function fail(c, message) failer(c)(message) end

local function emit(c, text, ...) c.code[#c.code + 1] = text:format(...) end

local function compile_expression(c, text)
  return expression.compile(text, c.scope, c.is_known_filter, failer(c))
end

local function put_text(c, text)
  if text == "" then return end
  if c.place then html.read(c.place, text) end
  emit(c, "put(run, %q)", text)
end

local function put_value(c, text)
  local how, refusal = "plain", nil
  if c.place then how, refusal = html.escaping(c.place) end
  if not how then fail(c, refusal) end
  emit(c, "run.line = %d value(run, %q, %s)", c.line, how, compile_expression(c, text))
end

-- What stands open is kept with the place it began at: each branch begins there, and all must end alike.
local function enter(c, tag, more)
  if #c.open >= MAX_DEPTH then fail(c, ("more than %d tags are open"):format(MAX_DEPTH)) end
  local entry = more or {}
  entry.tag, entry.line, entry.scope = tag, c.line, c.scope
  entry.place = c.place and html.copy(c.place)
  c.open[#c.open + 1] = entry
  return entry
end

local function end_branch(c, entry)
  if not c.place then return end
  if entry.after and not html.same(entry.after, c.place) then
    fail(c, ("the branches of the %s in line %d end in different places of the HTML"):format(entry.tag, entry.line))
  end
  entry.after = html.copy(c.place)
  c.place = html.copy(entry.place)
end

local TAGS = {}

TAGS["if"] = function(c, rest)
  emit(c, "run.line = %d if truth(run, %s) then", c.line, compile_expression(c, rest))
  enter(c, "if")
end

local function top(c, tag, wanted)
  local entry = c.open[#c.open]
  if not entry or not wanted[entry.tag] then fail(c, tag .. " without an if before it") end
  if entry.has_else then fail(c, tag .. " after the else") end
  return entry
end

TAGS["elseif"] = function(c, rest)
  end_branch(c, top(c, "elseif", { ["if"] = true }))
  emit(c, "else run.line = %d if truth(run, %s) then", c.line, compile_expression(c, rest))
  local entry = c.open[#c.open]
  entry.extra_ends = (entry.extra_ends or 0) + 1
end

TAGS["else"] = function(c, rest)
  if rest ~= "" then fail(c, "else stands alone") end
  local entry = top(c, "else", { ["if"] = true, ["for"] = true })
  end_branch(c, entry)
  entry.has_else = true
  if entry.tag == "for" then
    emit(c, "end if empty then")
    c.scope = entry.scope
  else
    emit(c, "else")
  end
end

TAGS["for"] = function(c, rest)
  local name, list = rest:match("^([%a_][%w_]*)%s+in%s+(.+)$")
  if not name then fail(c, "a for is written {% for name in list %}") end
  local code = compile_expression(c, list)
  enter(c, "for")
  local scope = {}
  for known, lua in pairs(c.scope) do scope[known] = lua end
  local depth = #c.open
  scope[name], scope.loop = ("item%d"):format(depth), ("loop%d"):format(depth)
  emit(c, "do run.line = %d local empty = true", c.line)
  emit(c, "for loop%d, item%d in items(run, %s) do empty = false", depth, depth, code)
  c.scope = scope
end

TAGS["end"] = function(c, rest)
  if rest ~= "" then fail(c, "end stands alone") end
  local entry = table.remove(c.open)
  if not entry then fail(c, "an end too many") end
  if c.place and entry.tag ~= "block" then
    -- Without an else nothing may have happened: then the place must be that of the beginning.
    if not entry.has_else or entry.tag == "for" then entry.after = entry.after or html.copy(entry.place) end
    local ended = html.copy(c.place)
    end_branch(c, entry)
    c.place = ended
  end
  c.scope = entry.scope
  if entry.tag == "for" then emit(c, "end end")
  elseif entry.tag == "block" then emit(c, "end)")
  else emit(c, ("end "):rep(1 + (entry.extra_ends or 0))) end
end

local function path_argument(c, tag, rest)
  local path = rest:match('^"([^"]+)"$') or rest:match("^'([^']+)'$")
  if not path then fail(c, ('%s needs a path in quotes: {%% %s "email/part.html" %%}'):format(tag, tag)) end
  return path
end

local function need_text_place(c, tag)
  if c.place and c.place.state ~= "text" then fail(c, tag .. " can only stand where text stands, not inside a tag") end
end

function TAGS.include(c, rest)
  need_text_place(c, "include")
  emit(c, "run.line = %d include(run, %q, data)", c.line, path_argument(c, "include", rest))
end

function TAGS.layout(c, rest)
  if c.layout then fail(c, "a template has one layout") end
  if #c.open > 0 or c.seen_output then fail(c, "the layout is named first, before anything else") end
  c.layout = path_argument(c, "layout", rest)
end

function TAGS.block(c, rest)
  if not rest:find("^[%a_][%w_]*$") then fail(c, "a block has a name: {% block content %}") end
  if c.block_names[rest] then fail(c, ("there are two blocks %s"):format(rest)) end
  need_text_place(c, "block")
  if c.layout and #c.open > 0 then fail(c, "a block of a template with a layout stands by itself") end
  c.block_names[rest] = true
  c.blocks[#c.blocks + 1] = rest
  enter(c, "block", { name = rest })
  emit(c, "run.line = %d block(run, %q, data, function(run, data)", c.line, rest)
end

local function do_tag(c, inside)
  local tag, rest = inside:match("^%s*(%a+)%s*(.-)%s*$")
  local handler = tag and TAGS[tag]
  if not handler then
    fail(c, ("there is no tag %q; there are if, elseif, else, for, end, include, layout, block"):format(inside))
  end
  handler(c, rest)
end

local CLOSE <const> = { ["{{"] = "}}", ["{%"] = "%}", ["{#"] = "#}" }

local function next_tag(text, from)
  local at = from
  while true do
    at = text:find("{", at, true)
    if not at or CLOSE[text:sub(at, at + 1)] then return at end
    at = at + 1
  end
end

local function count_lines(text) return select(2, text:gsub("\n", "\n")) end

-- Whether the tag at [first, last] is alone on its line; then where that line begins and where the next one does.
local function whole_line(text, first, last)
  local after = text:match("^[ \t]*\r?\n", last + 1) or text:match("^[ \t]*$", last + 1)
  local start = first
  while start > 1 and text:find("^[ \t]", start - 1) do start = start - 1 end
  if not after or (start > 1 and text:byte(start - 1) ~= 10) then return first, last end
  return start, last + #after
end

-- Text between blocks of a template that has a layout goes nowhere: only blanks may stand there.
local function fixed_text(c, text)
  if text:find("%S") then
    c.seen_output = true
    if c.layout and #c.open == 0 then fail(c, "text outside of a block, in a template with a layout") end
  end
  if not (c.layout and #c.open == 0) then put_text(c, text) end
end

local function compile_all(c, text)
  local at = 1
  while true do
    local first = next_tag(text, at)
    if not first then break end
    local opening = text:sub(first, first + 1)
    local close = text:find(CLOSE[opening], first + 2, true)
    local line = c.line + count_lines(text:sub(at, first - 1))
    if not close then
      c.line = line
      fail(c, ("%s is not closed"):format(opening))
    end
    local from, to = first, close + 1
    if opening ~= "{{" then from, to = whole_line(text, first, close + 1) end
    fixed_text(c, text:sub(at, from - 1))
    c.line = line
    local inside = text:sub(first + 2, close - 1)
    if opening == "{{" then
      if c.layout and #c.open == 0 then fail(c, "a value outside of a block, in a template with a layout") end
      c.seen_output = true
      put_value(c, inside)
    elseif opening == "{%" then
      do_tag(c, inside)
    end
    c.line = line + count_lines(text:sub(first, to))
    at = to + 1
  end
  fixed_text(c, text:sub(at))
end

--- Compiles a template. Files that end in .html are HTML, all others plain text.
---@param path string for messages: "templates/email/failed.html"
---@param text string
---@param is_known_filter fun(name: string): boolean
---@return Compiled # raises "templates/email/failed.html:12: …"
function compiler.compile(path, text, is_known_filter)
  local c = {
    path = path, line = 1, code = { PRELUDE }, open = {}, scope = {}, blocks = {}, block_names = {},
    is_known_filter = is_known_filter, place = path:find("%.html$") and html.start() or nil,
  }
  compile_all(c, text)
  local open = c.open[#c.open]
  if open then
    c.line = open.line
    fail(c, ("the %s is not ended"):format(open.tag))
  end
  if c.place and c.place.state ~= "text" then fail(c, "the file ends inside a tag") end
  emit(c, "end")
  return { code = table.concat(c.code, "\n"), layout = c.layout, blocks = c.blocks }
end

return compiler
