-- The hash of a plan: SHA-256 over the canonical JSON of what changes the output. Names, descriptions, costs,
-- credentials and the registry are left out; the order in which sets are written makes no difference.

local canonical = require "canonical"
local check = require "check"

local hash = {}

-- A list as a set: sorted, each once.
local function set(list, map)
  local seen, result = {}, check.array()
  for _, value in ipairs(list) do
    local entry = map and map(value) or value
    local key = canonical.encode(entry)
    if not seen[key] then
      seen[key] = true
      result[#result + 1] = { key = key, entry = entry }
    end
  end
  table.sort(result, function(a, b) return a.key < b.key end)
  for index, item in ipairs(result) do result[index] = item.entry end
  return result
end

-- Absent members have no place in JSON; tables of Lua may have holes.
local function target_of(target)
  local optimizations = {}
  for name, value in pairs(target.optimizations) do optimizations[name] = value end
  return { id = target.id, provider = target.provider, compute = target.compute, architecture = target.architecture,
    tier = target.tier, region = target.region, settings = target.settings, optimizations = optimizations }
end

--- What is hashed, as a value.
---@param plan Plan
---@param commits? table<string, string> the commit of each repository by its name; its ref counts where there is none
function hash.content(plan, commits)
  return {
    version = plan.version,
    system = plan.system,
    commands = check.array(plan.commands),
    makeTargets = check.array(plan.make_targets),
    repositories = set(plan.repositories, function(entry)
      local commit = commits and commits[entry.name]
      return { url = entry.url, path = entry.path, commit = commit, ref = not commit and entry.ref or nil,
        projects = set(entry.projects) }
    end),
    modules = set(plan.selects),
    targets = set(plan.targets, target_of),
    environment = plan.environment,
    limits = plan.limits,
    properties = plan.properties,
    variables = plan.variables,
  }
end

--- 64 lower-case hexadecimal digits; the first 12 stand in tags.
---@param plan Plan
---@param commits? table<string, string>
---@param sha256 fun(text: string): string
function hash.of(plan, commits, sha256)
  return sha256(canonical.encode(hash.content(plan, commits)))
end

return hash
