-- Which credentials a manifest asks for, and whether it may: the names of the option Credentials, their hosts and their
-- customers.

local check = require "check"
local rules = require "manifest.rules"

local credentials = {}

-- Each use: {path, name, host, open: in clear text}.
local function uses(normal)
  local list = {}
  local function use(path, name, host, open)
    if name then list[#list + 1] = { path = path, name = name, host = host and host:lower() or "", open = open } end
  end
  for index, entry in ipairs(normal.repositories or {}) do
    use(("$.repositories[%d].credentials"):format(index - 1), entry.credentials, rules.host(entry.url),
      not rules.is_encrypted(entry.url))
  end
  for index, target in ipairs(normal.targets or {}) do
    local place = target.registry or {}
    use(("$.targets[%d].registry.credentialsVariable"):format(index - 1), place.credentialsVariable, place.url)
  end
  local from = normal.source or {}
  use("$.source.credentials", from.credentials, from.repository and rules.host(from.repository),
    from.repository and not rules.is_encrypted(from.repository))
  for index, cloud in ipairs(normal.cloudTargets or {}) do
    local host = cloud.registryUrl and cloud.registryUrl:gsub("^https://", ""):match("^[^/]+")
    use(("$.cloudTargets[%d].credentials"):format(index - 1), cloud.credentials, host)
  end
  return list
end

local function contains(list, wanted)
  for _, item in ipairs(list) do
    if item:lower() == wanted:lower() then return true end
  end
  return false
end

--- The faults of what a checked manifest asks for. Which credentials there are for other customers is not told.
---@param normal table
---@param customer string the customer's id
---@param known table<string, {hosts: string[], customers: string[]}> as buildq.config.Credentials
---@return Fault[]
function credentials.check(normal, customer, known)
  local c = check.new()
  for _, use in ipairs(uses(normal)) do
    local entry = known[use.name]
    local allowed = false
    for _, id in ipairs(entry and entry.customers or {}) do allowed = allowed or id == "*" or id == customer end
    if not allowed then
      c:fault(use.path, use.name, "is no entry of the option Credentials that this customer may use")
    elseif not contains(entry.hosts, use.host) then
      c:fault(use.path, use.name, ("is not for the host %s; it is for: %s"):format(use.host,
        table.concat(entry.hosts, ", ")))
    elseif use.open then
      c:fault(use.path, use.name, "would go over the network in clear text: name the repository by https or ssh")
    end
  end
  return c.faults
end

return credentials
