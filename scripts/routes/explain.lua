-- Why a build waits, and when it should start.

local buildq = require "buildq"
local explain = require "explain"
local problem = require "problem"
local reply = require "reply"

local function handle(req)
  local facts = buildq.queue.explain(req.params.id)
  if not facts then return problem.new(404, "There is no build of this id.") end
  return reply.json(explain.answer(facts, buildq.clock.now))
end

return { method = "GET", path = "/builds/{id}/explain", handle = handle }
