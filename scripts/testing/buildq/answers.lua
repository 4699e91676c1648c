-- What the world answers in a test: commands (build:exec) and outgoing requests (http.request) are given to the spec
-- before anything happens.
local wire = require "buildq.wire"

local answers = {}

---@class Answers
---@field calls table[] what was asked, oldest first: {line=, argv=, cwd=, env=, …} or {method=, url=, headers=, body=}
---@field rules {words: string, answer: any}[]
---@field replay boolean|nil
local Answers = {}
Answers.__index = Answers

---Answers what has `words` in its line (a plain text; "" is in every line). Of several the one with the most letters
---wins, of equals the later. The line of a command is its arguments, joined by spaces; of a request, "GET https://…".
---
---Answers of commands: an exit code; a text, which is its output; a table {code=, output=, errors=, signal=, duration=,
---files={path=text}}; {hang=true}: it does not end by itself; {error="not_found", message=}: it can't be started.
---Answers of requests: a status; a text, which is the body; a table {status=, headers=, body=}; {error="timeout"}.
---A function is called with the question and gives one of these; nothing is the answer 0 or 200.
---@param words string
---@param answer any
function Answers:on(words, answer)
  assert(type(words) == "string", self.name .. ".on: the first argument is a text in the line, got " .. type(words))
  self.rules[#self.rules + 1] = { words = words, answer = answer }
end

---Does it really: in the sandbox, over the network. Without `words`, all that has no other answer.
---@param words? string
function Answers:real(words) self:on(words or "", { real = true }) end

---The first question whose line has these words, and its place in `calls`; nil when there was none.
---@param words string
---@return table? call
---@return integer? place
function Answers:find(words)
  for place, call in ipairs(self.calls) do
    if call.line:find(words, 1, true) then return call, place end
  end
  return nil
end

local function best(rules, line)
  local found
  for _, rule in ipairs(rules) do
    if line:find(rule.words, 1, true) and not (found and #found.words > #rule.words) then found = rule end
  end
  return found
end

-- Bytes that JSON can't hold go as {hex=}.
local function bytes(value)
  if type(value) ~= "string" or (utf8.len(value) and not value:find("\0", 1, true)) then return value end
  return { hex = (value:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) }
end

-- The same as a call's own field.
function answers.text(value)
  if type(value) ~= "table" or not value.hex then return value end
  return (value.hex:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function sendable(answer)
  local copy = {}
  for name, value in pairs(answer) do copy[name] = bytes(value) end
  if answer.files then
    copy.files = {}
    for path, text in pairs(answer.files) do copy.files[path] = bytes(text) end
  end
  return copy
end

---@param call table
---@param recorded fun(call: table): table? what a recording answers to a call without a rule
function Answers:answer(call, recorded)
  self.calls[#self.calls + 1] = call
  local rule = best(self.rules, call.line)
  local played = not rule and recorded(call)
  if played then return played end
  if not rule then
    return { error = "invalid", message = ("the spec has no answer for %q: give one with %s.on(%q, …), or %s.real()")
      :format(call.line, self.name, call.line:match "^%S+ ?%S*", self.name) }
  end
  local answer = rule.answer
  if type(answer) == "function" then answer = answer(call) end
  if answer == nil then answer = {} end
  return sendable(type(answer) == "table" and answer or self.short(answer))
end

local function new(name, short)
  return setmetatable({ name = name, short = short, rules = {}, calls = {} }, Answers)
end

local function exec_short(answer)
  if math.type(answer) == "integer" then return { code = answer } end
  return { output = tostring(answer) }
end

local function http_short(answer)
  if math.type(answer) == "integer" then return { status = answer } end
  return { body = tostring(answer) }
end

---Commands, then requests.
---@return Answers
---@return Answers
function answers.new() return new("exec", exec_short), new("http", http_short) end

-- Recordings
-- ------------------------------------------------------------------------------------------------------------

---@class Recording
---@field path string
---@field entries table<string, table[]> what was answered, by what was asked
---@field used table<string, integer>
---@field open table<integer, string> questions whose real answer is awaited
---@field changed boolean

---@param path string
---@return Recording
function answers.recording(path)
  local recording = { path = path, entries = {}, used = {}, open = {}, changed = false, playing = false }
  local file = not os.getenv "BUILDQ_TEST_RECORD" and io.open(path, "r")
  if file then
    recording.entries, recording.playing = wire.decode(file:read "a"), true
    file:close()
  end
  return recording
end

-- Paths of the build's own directory differ from run to run.
local function key_of(what, call)
  local line = what == "exec" and call.line:gsub(call.workspace:gsub("%p", "%%%0"), "$WORKSPACE")
    or call.line .. (call.body and "\n" .. call.body or "")
  return what .. " " .. line
end

---What the recording answers; nil when it has nothing.
function answers.play(recording, what, number, call)
  local key = key_of(what, call)
  if not recording.playing then
    recording.open[number] = key
    return { real = true, record = true }
  end
  local list = recording.entries[key]
  if not list then return nil end
  recording.used[key] = (recording.used[key] or 0) + 1
  return list[math.min(recording.used[key], #list)]
end

function answers.keep(recording, number, result)
  local key = recording.open[number]
  if not key then return end
  recording.open[number] = nil
  recording.entries[key] = recording.entries[key] or {}
  table.insert(recording.entries[key], result)
  recording.changed = true
end

function answers.save(recording)
  if not recording.changed then return end
  local file = assert(io.open(recording.path, "w"))
  file:write(wire.encode(recording.entries), "\n")
  file:close()
  recording.changed = false
end

return answers
