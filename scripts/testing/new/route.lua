-- The route GET /@NAME@/{id}: what the address answers. A file may also return a list of routes.
-- All functions: scripts/README.md ("Routes", "The queue"), and lib/buildq.d.lua for your editor.
local buildq = require "buildq"
local problem = require "problem"

-- The server has checked path, method, Host, Origin and size before this runs. A handler has 50 ms of computing between
-- two waits; state belongs into the database, not into variables of this file.
---@param request Request
---@return Response
local function handle(request)
  local id = request.params.id
  if #id > 64 then return problem.new(400, "An id has 64 characters at most.") end
  buildq.log.info("asked for @NAME@", { id = id })
  -- local build, failure = buildq.queue.get(id)
  -- if not build then return problem.from(failure) end
  return { json = { id = id, language = request.query.language or "en" } }
end

return { method = "GET", path = "/@NAME@/{id}", handle = handle }
