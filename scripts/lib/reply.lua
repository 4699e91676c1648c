-- What most routes have in common: reading a JSON body, and answers that no cache may keep.

local buildq = require "buildq"
local problem = require "problem"

local reply = {}

--- The request's body as JSON.
---@param req Request
---@param optional? boolean an empty body is an empty object
---@return any body
---@return Response? refusal
function reply.body(req, optional)
  if req.body == "" and optional then return {} end
  local body, message = req:json()
  if body ~= nil then return body end
  if req.body == "" then message = "it is empty" end
  return nil, problem.new(400, ("The body is not JSON: %s."):format(message))
end

--- 200 (or `status`) with a value.
---@return Response
function reply.json(value, status)
  return { status = status or 200, headers = { ["Cache-Control"] = "no-store" }, json = value }
end

--- 200 with JSON that is text already.
---@return Response
function reply.text_json(text)
  return {
    status = 200,
    headers = { ["Content-Type"] = "application/json", ["Cache-Control"] = "no-store" },
    body = text,
  }
end

--- A list as a JSON array, also when it is empty.
---@return Response
function reply.list(name, items)
  return reply.json { [name] = buildq.json.array(items) }
end

return reply
