-- Servers: list them, let one take no more builds, and take some again.

local buildq = require "buildq"
local problem = require "problem"
local reply = require "reply"

local queue = buildq.queue

local function list() return reply.json { nodes = buildq.json.array(queue.nodes()) } end

local function change(req, how)
  local _, refusal = reply.body(req, true)
  if refusal then return refusal end
  local node = how(req.params.id)
  if node then return reply.json(node) end
  for _, each in ipairs(queue.nodes()) do
    if each.id == req.params.id:lower() then
      return problem.new(409, ("This server takes no builds any more: it is %s."):format(each.state))
    end
  end
  return problem.new(404, ("There is no server %s."):format(req.params.id))
end

return {
  { method = "GET", path = "/nodes", handle = list },
  { method = "POST", path = "/nodes/{id}/drain", handle = function(req) return change(req, queue.drain) end },
  { method = "POST", path = "/nodes/{id}/resume", handle = function(req) return change(req, queue.undrain) end },
}
