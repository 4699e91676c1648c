-- Generations of scripts: reload, list, look at, activate, release.

local buildq = require "buildq"
local check = require "check"
local problem = require "problem"
local reply = require "reply"

local generations = buildq.generations

local function reload(req)
  local _, refusal = reply.body(req, true)
  if refusal then return refusal end
  local result, failure = generations.reload()
  if not result then return problem.new(422, failure.message) end
  return reply.json(result)
end

-- The one generation whose hash begins so; nil and a response otherwise.
local function find(prefix)
  if not prefix:find "^%x+$" or #prefix > 64 then
    return nil, problem.new(404, ("There is no generation %s: a name is a hash, or its beginning."):format(prefix))
  end
  local found = generations.find(prefix:lower())
  if #found == 0 then return nil, problem.new(404, ("There is no generation %s."):format(prefix)) end
  if #found > 1 then
    return nil, problem.new(409, ("Several generations begin with %s: give more of it."):format(prefix))
  end
  return found[1]
end

local function list()
  local answer = generations.here()
  answer.activation = generations.activation()
  answer.generations = generations.list(50)
  answer.history = generations.history(20)
  return reply.json(answer)
end

local function show(req)
  local hash, refusal = find(req.params.hash)
  if not hash then return refusal end
  return reply.json { hash = hash, files = generations.files(hash) }
end

local function activate(req)
  local body, refusal = reply.body(req)
  if refusal then return refusal end
  local c = check.new()
  local fields = c:object(body, "$", { "generation", "share", "who", "reason" }) or {}
  local prefix = c:text(fields.generation, "$.generation", { max = 64 })
  if fields.generation == nil then c:fault("$.generation", nil, "is missing: the hash, or the beginning of one") end
  local share = c:number(fields.share, "$.share", 1, 100)
  if share and not math.tointeger(share) then c:fault("$.share", share, "must be whole percent") end
  local who = c:text(fields.who, "$.who", { max = 255 })
  local reason = c:text(fields.reason, "$.reason", { max = 1000 })
  if #c.faults > 0 then return problem.faults(c.faults, "The request") end
  local hash
  hash, refusal = find(prefix)
  if not hash then return refusal end
  local activation = generations.activate(hash, math.tointeger(share or 100), who or "API", reason)
  return activation and reply.json(activation) or problem.new(404, ("There is no generation %s."):format(prefix))
end

local function release(req)
  local body, refusal = reply.body(req, true)
  if refusal then return refusal end
  local c = check.new()
  local fields = c:object(body or {}, "$", { "who", "reason" }) or {}
  local who = c:text(fields.who, "$.who", { max = 255 })
  local reason = c:text(fields.reason, "$.reason", { max = 1000 })
  if #c.faults > 0 then return problem.faults(c.faults, "The request") end
  return reply.json(generations.activate(nil, 100, who or "API", reason))
end

return {
  { method = "POST", path = "/admin/reload", handle = reload },
  { method = "GET", path = "/generations", handle = list },
  { method = "POST", path = "/generations/activate", handle = activate },
  { method = "POST", path = "/generations/release", handle = release },
  { method = "GET", path = "/generations/{hash}", handle = show },
}
