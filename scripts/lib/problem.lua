-- Errors as RFC 9457 problem documents (application/problem+json).
--
--   return problem.new(409, "The build has ended already.")

local problem = {}

local TITLES <const> = {
  [400] = "Bad Request", [403] = "Forbidden", [404] = "Not Found", [405] = "Method Not Allowed", [409] = "Conflict",
  [413] = "Content Too Large", [415] = "Unsupported Media Type", [422] = "Unprocessable Content",
  [429] = "Too Many Requests", [500] = "Internal Server Error", [503] = "Service Unavailable",
}

local STATUS <const> = { invalid = 400, not_found = 404, conflict = 409, limit = 413, unavailable = 503 }

--- A response.
---@param status integer 400 to 599
---@param detail string what is wrong with this request, and what to do
---@param members? table<string, any> further members: errors, …
---@return Response
function problem.new(status, detail, members)
  local document = { type = "about:blank", title = TITLES[status] or "Error", status = status, detail = detail }
  for name, value in pairs(members or {}) do document[name] = value end
  local headers = { ["Content-Type"] = "application/problem+json", ["Cache-Control"] = "no-store" }
  if status == 503 then headers["Retry-After"] = "5" end
  return { status = status, headers = headers, json = document }
end

--- A response for what a call of the queue module gave beside nil.
---@param failure Failure
---@return Response
function problem.from(failure)
  if failure.code == "refused" then
    local members = { title = failure.title, retryAfter = failure.retryAfter }
    local response = problem.new(failure.status, failure.message, members)
    if failure.retryAfter then response.headers["Retry-After"] = ("%d"):format(failure.retryAfter) end
    return response
  end
  return problem.new(STATUS[failure.code] or 500, failure.message)
end

--- 400 with every fault of the input.
---@param faults Fault[]
---@param what string "The request", "The manifest"
---@return Response
function problem.faults(faults, what)
  local first = faults[1]
  local detail = ("%s has %s; the first: %s %s."):format(what, #faults == 1 and "a fault" or #faults .. " faults",
    first.path, first.message)
  if #faults == 1 then detail = ("%s has a fault: %s %s."):format(what, first.path, first.message) end
  return problem.new(400, detail, { errors = faults })
end

return problem
