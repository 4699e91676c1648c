-- A node that claims and does nothing else: the server's own statement, prepared, in a session as the server's are,
-- with the time that each claim takes.
local sessions = require "spec.support.sessions"

local NODE <const> = "00000000-0000-7000-8000-000000000002"

---@class Claimer
---@field session Session
local Claimer = {}
Claimer.__index = Claimer

--- Joins the cluster; the session ends with the group.
---@param database string
---@return Claimer
function Claimer.open(database)
  local self = setmetatable({ session = sessions.open(database) }, Claimer)
  self.session:ask(([[insert into nodes (id, name, url, version, slots, lease_seconds)
    values ('%s', 'bench', 'http://localhost', '1', 1000, 86400)]]):format(NODE))
  self:claim(10, 1) -- until PostgreSQL has settled for a plan
  return self
end

--- Claims some times, each time `rows` builds: milliseconds of each, with its commit. It looks from the lowest key on,
--- as servers do, which ask for it now and then.
---@param times integer
---@param rows integer
---@param pause? number seconds before each
---@return number[]
function Claimer:claim(times, rows, pause)
  local session = self.session
  local low = session:ask(session:text { "lowest_key", "{}", n = 2 }):match "^%-?%d+"
  assert(low, "nothing waits to be claimed: " .. session.answer)
  local one = session:text { "claim", NODE, rows, low, "bench", "{}", n = 6 }
  one = ("\\timing on\n%s;\n\\timing off\n"):format(one)
  if pause then one = ("select pg_sleep(%g);\n"):format(pause) .. one end
  local answer = session:ask(one:rep(times))
  local list, claimed = {}, select(2, answer:gsub('"claimKey"', ""))
  for ms in answer:gmatch "Time: ([%d.]+) ms" do list[#list + 1] = tonumber(ms) end
  assert(#list == times and claimed == times * rows, answer)
  return list
end

return Claimer
