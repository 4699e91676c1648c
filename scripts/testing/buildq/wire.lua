-- The line to the runtime that `buildq test` has started beside busted: one JSON object a line, in both directions.
-- core/queue/trial.h says which.
local dkjson = require "dkjson"

local wire = {}

---JSON's null, as values from the runtime have it.
wire.null = dkjson.null

local EMPTY <const> = { __jsontype = "object" }

-- dkjson takes an empty table for an array; here it is an object, unless it is marked.
local function marked(value)
  if type(value) ~= "table" or value == wire.null then return value end
  if next(value) == nil then return getmetatable(value) and value or setmetatable({}, EMPTY) end
  local copy = setmetatable({}, getmetatable(value))
  for k, v in next, value do copy[k] = marked(v) end
  return copy
end

function wire.encode(value) return (dkjson.encode(marked(value))) end

function wire.decode(text)
  local value, _, message = dkjson.decode(text, 1, wire.null)
  if message then error("what the runtime said is not JSON: " .. message, 0) end
  return value
end

local from = io.open("/dev/fd/3", "r")
local to = io.open("/dev/fd/4", "w")

---@class WireError raised for what the runtime refuses
---@field kind string
---@field message string
local Error = { __tostring = function(self) return self.message end }

local function read_line()
  local line = from and from:read "l"
  if not line then
    error("the runtime of the specs is not there: run them with `buildq test` (its errors are above)", 0)
  end
  return wire.decode(line)
end

local function send(line)
  if not to then read_line() end
  to:write(wire.encode(line), "\n")
  to:flush()
end

local hello ---@type table|nil
---What the runtime said first: {hello = its URL, scripts=, manifests=, directory=}.
---@return table
function wire.hello()
  hello = hello or read_line()
  return hello
end

---Answers a question of the runtime; set by buildq.test.
---@type fun(what: string, number: integer, request: table): table
wire.on_ask = function() error "nobody answers" end
---Takes what a real command or request came to; likewise.
---@type fun(number: integer, result: table)
wire.on_tell = function() end

local last = 0

---Calls the runtime and answers its questions until it replies.
---@param name string
---@param arguments? table
---@return any
function wire.call(name, arguments)
  wire.hello()
  last = last + 1
  local line = { id = last, call = name }
  for k, v in pairs(arguments or {}) do line[k] = v end
  send(line)
  while true do
    local said = read_line()
    if said.ask then
      send { answer = said.ask, result = wire.on_ask(said.what, said.ask, said.request) }
    elseif said.tell then
      wire.on_tell(said.tell, said.result)
    elseif said.id == last then
      if said.error then
        -- What a script raised as a string is a string here too.
        error(said.error.kind == "script" and said.error.message or setmetatable(said.error, Error), 0)
      end
      return said.result
    end
  end
end

return wire
