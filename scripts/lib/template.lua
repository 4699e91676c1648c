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

-- One run: what is written, the blocks that stand in for a layout's, and where we are.
---@class TemplateRun
---@field engine TemplateEngine
---@field parts string[]
---@field count integer of them
---@field bytes integer
---@field blocks table<string, function>
---@field path string
---@field line integer
---@field depth integer

local function fail(run, message) error(("templates/%s:%d: %s"):format(run.path, run.line, message), 0) end

local function put(run, text)
  local count, bytes = run.count + 1, run.bytes + #text
  if bytes > MAX_BYTES then fail(run, "the text is longer than 1 MB") end
  run.count, run.bytes = count, bytes
  run.parts[count] = text
end

local function refuse_field(run, base, path)
  if base == run.engine.options.null or base == nil then fail(run, ("%s: what it is part of is null"):format(path)) end
  if type(base) ~= "table" then fail(run, ("%s: what it is part of is a %s"):format(path, type(base))) end
  fail(run, ("there is no %s"):format(path))
end

local function field(run, base, key, path)
  if type(base) == "table" then
    local found = base[key]
    if found ~= nil then return found end
  end
  refuse_field(run, base, path)
end

local function truth(run, value) return value ~= nil and value ~= false and value ~= run.engine.options.null end

local ESCAPES <const> = { html = escape.html, url = escape.url, url_part = escape.url_part, plain = escape.plain,
  css = escape.css }

-- What a value that is no string prints.
local function text_of(run, given)
  local kind = type(given)
  if not truth(run, given) and kind ~= "boolean" then
    fail(run, "the value is null: test it with if, or give it a default")
  end
  if kind ~= "number" then fail(run, ("a %s can't be printed"):format(kind)) end
  return tostring(math.tointeger(given) or given)
end

local function value(run, how, given)
  if filters.is_safe(given) then
    if how ~= "html" and how ~= "plain" then fail(run, "HTML can't stand inside an attribute") end
    return put(run, given.text)
  end
  local text = ESCAPES[how](type(given) == "string" and given or text_of(run, given))
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

local function comparison(operation)
  return function(run, left, right)
    local kind = type(left)
    if kind ~= type(right) or (kind ~= "number" and kind ~= "string") then
      fail(run, ("a %s and a %s can't be compared"):format(kind, type(right)))
    end
    return operation(left, right)
  end
end

-- Runs with another file's name in messages.
local function within(run, path, fn, data)
  if run.depth >= MAX_INCLUDES then fail(run, "more than 10 templates include each other") end
  local old_path, old_line = run.path, run.line
  run.path, run.line, run.depth = path, 1, run.depth + 1
  fn(run, data)
  run.path, run.line, run.depth = old_path, old_line, run.depth - 1
end

-- In a template with a layout a block is kept for it; what was kept already, of a template further out, wins.
local function keep_block(run, name, _, body)
  local path = run.path
  run.blocks[name] = run.blocks[name] or function(data) within(run, path, body, data) end
end

local function fill_block(run, name, data, own)
  local other = run.blocks[name]
  if other then return other(data) end
  own(run, data)
end

local execute

-- The functions that compiled code calls, in the order of the compiler's prelude; each is given the run. `block` is
-- called for each block.
local function helpers(engine, block)
  return put, value, field, filter, truth, items, function(run, path, data) execute(run, path, data) end, block,
    engine.options.null, function(_, a, b) return a == b end, function(_, a, b) return a ~= b end,
    comparison(function(a, b) return a < b end), comparison(function(a, b) return a <= b end),
    comparison(function(a, b) return a > b end), comparison(function(a, b) return a >= b end)
end

local function compile(engine, path)
  local text = engine.options.read(path)
  if not text then error(("there is no template templates/%s"):format(path), 0) end
  local compiled = compiler.compile("templates/" .. path, text, function(name) return engine.filters[name] ~= nil end)
  local chunk, reason = (engine.options.load or load)(compiled.code, "=templates/" .. path)
  if not chunk then error(("templates/%s: %s"):format(path, reason), 0) end
  compiled.run = chunk(helpers(engine, compiled.layout and keep_block or fill_block))
  engine.compiled[path] = compiled
  return compiled
end

function execute(run, path, data)
  local compiled = run.engine.compiled[path]
  if not compiled then
    local ok, made = pcall(compile, run.engine, path)
    if not ok then
      local missing = type(made) == "string" and made:find "^there is no template"
      if missing and run.path ~= path then fail(run, made) end
      error(made, 0)
    end
    compiled = made
  end
  within(run, path, compiled.run, data)
  if compiled.layout then execute(run, compiled.layout, data) end
end

--- Renders a template.
---@param path string "email/failed.html"
---@param data table
---@return string text raises "templates/email/failed.html:12: …"
function Engine:render(path, data)
  local run = { engine = self, parts = {}, count = 0, bytes = 0, blocks = {}, path = path, line = 1, depth = 0 }
  execute(run, path, data)
  return table.concat(run.parts)
end

return template
