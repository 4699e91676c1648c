-- Templates: text files with values in them, for mails. The language is described in templates/README.md.
--
--   local engine = template.new { read = function(path) return text_of(path) end, null = json.null }
--   local text = engine:render("email/failed.html", { build = … })
--
-- Everything is escaped for the place it stands in. A variable that isn't there is an error with file and line, never
-- an empty string; one that is there and null is an error too where it is printed (`| default: "-"` says what instead).

local compiler = require "template.compiler"
local escape = require "template.escape"
local filters = require "template.filters"

local template = {}

local MAX_INCLUDES <const> = 10
local MAX_BYTES <const> = 1024 * 1024

---@class TemplateOptions
---@field read fun(path: string): string? the text of "email/x.html"; nil when there is none
---@field null any what stands for null in the data
---@field load? fun(code: string, name: string): function? compiles Lua; `load` when absent
---@field filters? table<string, fun(value: any, ...): any> further ones

---@class TemplateEngine
local Engine = {}
Engine.__index = Engine

---@param options TemplateOptions
---@return TemplateEngine
function template.new(options)
  local engine = setmetatable({ options = options, compiled = {}, filters = {} }, Engine)
  for name, filter in pairs(filters.all) do engine.filters[name] = filter.call end
  for name, call in pairs(options.filters or {}) do engine.filters[name] = call end
  return engine
end

local function compile(engine, path)
  local known = engine.compiled[path]
  if known then return known end
  local text = engine.options.read(path)
  if not text then error(("there is no template templates/%s"):format(path), 0) end
  local compiled = compiler.compile("templates/" .. path, text, function(name) return engine.filters[name] ~= nil end)
  local chunk, reason = (engine.options.load or load)(compiled.code, "=templates/" .. path)
  if not chunk then error(("templates/%s: %s"):format(path, reason), 0) end
  compiled.chunk = chunk
  engine.compiled[path] = compiled
  return compiled
end

-- One run: what is written, the blocks that stand in for a layout's, and where we are.
---@class TemplateRun
---@field engine TemplateEngine
---@field parts string[]
---@field bytes integer
---@field blocks table<string, function>
---@field path string
---@field line integer
---@field depth integer

local function fail(run, message) error(("templates/%s:%d: %s"):format(run.path, run.line, message), 0) end

local function put(run, text)
  run.bytes = run.bytes + #text
  if run.bytes > MAX_BYTES then fail(run, "the text is longer than 1 MB") end
  run.parts[#run.parts + 1] = text
end

local function field(run, base, key, path)
  local null = run.engine.options.null
  if base == null or base == nil then fail(run, ("%s: what it is part of is null"):format(path)) end
  if type(base) ~= "table" then fail(run, ("%s: what it is part of is a %s"):format(path, type(base))) end
  local found = base[key]
  if found == nil then fail(run, ("there is no %s"):format(path)) end
  return found
end

local function truth(run, value) return value ~= nil and value ~= false and value ~= run.engine.options.null end

local ESCAPES <const> = { html = escape.html, url = escape.url, url_part = escape.url_part, plain = escape.plain,
  css = escape.css }

local function value(run, how, given)
  if filters.is_safe(given) then
    if how ~= "html" and how ~= "plain" then fail(run, "HTML can't stand inside an attribute") end
    return put(run, given.text)
  end
  local kind = type(given)
  if not truth(run, given) and kind ~= "boolean" then
    fail(run, "the value is null: test it with if, or give it a default")
  end
  if kind ~= "string" and kind ~= "number" then fail(run, ("a %s can't be printed"):format(kind)) end
  local text = ESCAPES[how](tostring(kind == "number" and math.tointeger(given) or given))
  if not text then fail(run, ("%q is no plain CSS value"):format(tostring(given))) end
  put(run, text)
end

local function filter(run, name, given, ...)
  if given == run.engine.options.null then given = nil end
  if given == nil and name ~= "default" then fail(run, ("%s: the value is null"):format(name)) end
  local ok, result = pcall(run.engine.filters[name], given, ...)
  if not ok then fail(run, tostring(result)) end
  if result == nil then return run.engine.options.null end
  return result
end

local function items(run, list)
  if type(list) ~= "table" then fail(run, "for needs a list, it got a " .. type(list)) end
  local index, count = 0, #list
  return function()
    index = index + 1
    if index > count then return nil end
    return { index = index, first = index == 1, last = index == count }, list[index]
  end
end

local function compare(run, left, right, operation)
  local kind = type(left)
  if kind ~= type(right) or (kind ~= "number" and kind ~= "string") then
    fail(run, ("a %s and a %s can't be compared"):format(kind, type(right)))
  end
  return operation(left, right)
end

local execute

-- The functions that compiled code calls, in the order of the compiler's prelude. `block` is called for each block.
local function helpers(run, block)
  local function comparison(operation) return function(a, b) return compare(run, a, b, operation) end end
  return function(text) put(run, text) end, function(how, given) value(run, how, given) end,
    function(base, key, path) return field(run, base, key, path) end,
    function(name, ...) return filter(run, name, ...) end, function(given) return truth(run, given) end,
    function(list) return items(run, list) end, function(path, data) execute(run, path, data) end, block,
    function(number) run.line = number end, run.engine.options.null, function(a, b) return a == b end,
    function(a, b) return a ~= b end, comparison(function(a, b) return a < b end),
    comparison(function(a, b) return a <= b end), comparison(function(a, b) return a > b end),
    comparison(function(a, b) return a >= b end)
end

-- Runs with another file's name in messages.
local function within(run, path, fn, data)
  if run.depth >= MAX_INCLUDES then fail(run, "more than 10 templates include each other") end
  local old_path, old_line = run.path, run.line
  run.path, run.line, run.depth = path, 1, run.depth + 1
  fn(data)
  run.path, run.line, run.depth = old_path, old_line, run.depth - 1
end

-- In a template with a layout a block is kept for it; what was kept already, of a template further out, wins.
local function keep_block(run, path)
  return function(name, _, body)
    run.blocks[name] = run.blocks[name] or function(data) within(run, path, body, data) end
  end
end

local function fill_block(run)
  return function(name, data, own)
    local other = run.blocks[name]
    if other then return other(data) end
    own(data)
  end
end

function execute(run, path, data)
  local ok, compiled = pcall(compile, run.engine, path)
  if not ok then
    local missing = type(compiled) == "string" and compiled:find "^there is no template"
    if missing and run.path ~= path then fail(run, compiled) end
    error(compiled, 0)
  end
  local block = compiled.layout and keep_block(run, path) or fill_block(run)
  within(run, path, compiled.chunk(helpers(run, block)), data)
  if compiled.layout then execute(run, compiled.layout, data) end
end

--- Renders a template.
---@param path string "email/failed.html"
---@param data table
---@return string text raises "templates/email/failed.html:12: …"
function Engine:render(path, data)
  local run = { engine = self, parts = {}, bytes = 0, blocks = {}, path = path, line = 1, depth = 0 }
  execute(run, path, data)
  return table.concat(run.parts)
end

return template
