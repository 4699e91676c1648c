-- Sessions of psql that are driven step by step, and two of them in every interleaving of their steps, as PostgreSQL's
-- own isolation tester does it. Statements are the server's: those of sql/queries, prepared under their names.
--
-- A step that waits for a lock is told by what PostgreSQL says of it (pg_blocking_pids), never by the time it takes.
local process = require "spec.support.process"
local postgres = require "spec.support.postgres"

local sessions = {}

-- As the server's core sessions are (core/queue/server.c): locks are looked at again along the plan that runs there.
local SETUP <const> = [[set jit = off; set buildq.announces = 'on'; set enable_hashjoin = off;
  set enable_mergejoin = off; set deadlock_timeout = '20ms';]]

--- The named statements of sql/queries, by name.
---@return table<string, string>
function sessions.statements()
  local found = {}
  for path in process.check({ "sh", "-c", "ls sql/queries/*.sql" }):gmatch "[^\n]+" do
    local name, lines
    for line in (process.read(path) .. "\n-- name: end\n"):gmatch "([^\n]*)\n" do
      local next_name = line:match "^%-%- name:%s*([%w_]+)"
      if next_name then
        if name then found[name] = table.concat(lines, "\n"):gsub("[;%s]+$", "") end
        name, lines = next_name, {}
      elseif name then
        lines[#lines + 1] = line
      end
    end
  end
  return found
end

---@class Session
---@field child Child
---@field pid integer of its backend
---@field from integer where the answer to the last step begins in the child's output
---@field marks integer steps so far
---@field statements table<string, string>
---@field prepared table<string, boolean>
---@field answer string|nil to the last step; nil while it is under way
---@field begun boolean it is in a transaction that has done nothing yet
local Session = {}
Session.__index = Session

--- Opens one; it ends with the spec file.
---@param database string
---@return Session
function sessions.open(database)
  local child = process.spawn({ "sh", "-c", 'exec psql "$@" 2>&1', "psql", "-XAtq", "-d",
    postgres.connection_string(database) }, { stdin = true })
  local self = setmetatable({ child = child, from = 1, marks = 0, prepared = {}, statements = sessions.statements() },
    Session)
  self:ask(SETUP)
  self.pid = tonumber(self:ask "select pg_backend_pid()")
  return self
end

--- Begins a step.
---@param sql string
function Session:send(sql)
  self.marks = self.marks + 1
  self.answer = nil
  self.from = #self.child.output + 1
  self.child:write(("%s;\n\\echo done %d\n"):format(sql, self.marks))
end

--- Whether the step has its answer; that of a statement which failed begins with ERROR.
---@return boolean
function Session:done()
  if self.answer then return true end
  assert(self.child:alive(), "psql ended: " .. self.child.output)
  local text, mark = self.child.output:match("^(.-)done (%d+)\n$", self.from)
  if not mark or tonumber(mark) ~= self.marks then return false end
  self.answer = text:gsub("\n$", "")
  return true
end

--- A step to its end.
---@param sql string
---@return string
function Session:ask(sql)
  self:send(sql)
  process.wait_for(function() return self:done() end, 20, "the answer to " .. sql)
  return self.answer
end

--- Prepares a named statement, unless it is.
---@param name string
function Session:prepare(name)
  if self.prepared[name] then return end
  local answer = self:ask(("prepare %s as %s"):format(name, assert(self.statements[name], "no statement " .. name)))
  assert(answer == "", answer)
  self.prepared[name] = true
end

---@alias Step {[1]: string, n: integer, [integer]: any} a statement's name, its parameters (nil: NULL); or "commit"

-- What executes a step.
local function text_of(step)
  if step[1] == "commit" then return "commit and chain" end
  local values = {}
  for index = 2, step.n do
    local value = step[index]
    values[index - 1] = value == nil and "null" or "'" .. tostring(value):gsub("'", "''") .. "'"
  end
  return #values > 0 and ("execute %s(%s)"):format(step[1], table.concat(values, ", ")) or "execute " .. step[1]
end

--- SQL for `ask` that executes a named statement, outside of any interleaving.
---@param step Step
---@return string
function Session:text(step)
  self:prepare(step[1])
  return text_of(step)
end

--- All orders of `a` steps of one and `b` steps of another session: texts such as "aabb".
---@param a integer
---@param b integer
---@return string[]
function sessions.interleavings(a, b)
  local list = {}
  local function extend(order, left_a, left_b)
    if left_a == 0 and left_b == 0 then list[#list + 1] = order end
    if left_a > 0 then extend(order .. "a", left_a - 1, left_b) end
    if left_b > 0 then extend(order .. "b", left_a, left_b - 1) end
  end
  extend("", a, b)
  return list
end

---@class Interleaved
---@field possible boolean false: a session would have had to go on while it waited for the other
---@field waited table<string, boolean> names of statements that waited
---@field answers {a: string[], b: string[]} to the statements of each, in their order

-- Until the step has its answer or waits for a lock; of the latter the watcher asks PostgreSQL.
local function settle(session, watcher)
  if not session:done() then process.pump(5) end -- most answers come at once
  return process.wait_for(function()
    if session:done() then return "done" end
    local blocked = watcher:ask(("select cardinality(pg_blocking_pids(%d)) > 0"):format(session.pid))
    return blocked == "t" and not session:done() and "waits" or nil
  end, 20, "a step's answer or its wait")
end

--- Runs the steps of two sessions in one order. The last step of each is a commit.
---@param two {a: Session, b: Session}
---@param watcher Session a third one
---@param steps {a: Step[], b: Step[]}
---@param order string of sessions.interleavings
---@return Interleaved
function sessions.interleave(two, watcher, steps, order)
  local result = { possible = true, waited = {}, answers = { a = {}, b = {} } }
  local next_step, waits = { a = 0, b = 0 }, {}
  local function take(letter)
    local answers = result.answers[letter]
    if steps[letter][next_step[letter]][1] ~= "commit" then answers[#answers + 1] = two[letter].answer end
    waits[letter] = nil
  end
  for letter in pairs(two) do
    for _, step in ipairs(steps[letter]) do
      if step[1] ~= "commit" then two[letter]:prepare(step[1]) end
    end
    if not two[letter].begun then two[letter]:ask "begin" end
    two[letter].begun = true
  end
  for letter in order:gmatch "%a" do
    local session, other = two[letter], letter == "a" and "b" or "a"
    if waits[letter] then
      result.possible = false
      break
    end
    next_step[letter] = next_step[letter] + 1
    local step = steps[letter][next_step[letter]]
    session:send(text_of(step))
    if settle(session, watcher) == "waits" then
      waits[letter] = true
      result.waited[step[1]] = true
    else
      take(letter)
    end
    -- Both wait: PostgreSQL ends one of them. One waits: this step may have let it go on.
    if waits.a and waits.b then
      process.wait_for(function() return two.a:done() or two.b:done() end, 20, "the end of a deadlock")
    end
    if waits[other] and settle(two[other], watcher) == "done" then take(other) end
    if waits[letter] and session:done() then take(letter) end
  end
  if result.possible then return result end
  -- Whoever does not wait lets the other one go on.
  for _, letter in ipairs(waits.a and { "b", "a" } or { "a", "b" }) do
    process.wait_for(function() return two[letter]:done() end, 20, "the last step")
    two[letter]:ask "rollback and chain"
  end
  return result
end

return sessions
