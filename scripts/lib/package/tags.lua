-- Which tags an image gets, by the strategy of its target. Pure.

local tags = {}

local MOST <const> = 128 -- characters of a tag (OCI distribution specification)

-- A version may hold a plus sign, a tag may not.
local function clean(text)
  return (text:gsub("[^%w._-]", "_"):gsub("^[.-]+", "_"):sub(1, MOST))
end

--- The tag of the strategy.
---@param plan Plan
---@param target PlanTarget
---@param hash string of the plan
---@param commit? string
---@return string
function tags.own(plan, target, hash, commit)
  local strategy = target.registry.tagStrategy
  if strategy == "semantic-version" then return clean(plan.version) end
  if strategy == "commit-sha" then return commit and commit:sub(1, 7) or hash:sub(1, 7) end
  return clean(("v%s-%s-%s"):format(plan.version, hash:sub(1, 12), target.id))
end

---@class TagPush
---@field place {url: string, repository: string, credentials?: string}
---@field tag string
---@field targets PlanTarget[] several become one index
---@field movable boolean it may name another image already

--- All tags that are pushed, in a fixed order: those of single targets first.
---@param plan Plan
---@param hash string
---@param commit? string
---@return TagPush[]
function tags.all(plan, hash, commit)
  local by_key, list = {}, {}
  local function add(target, tag, movable)
    local place = target.registry
    local key = ("%s/%s:%s"):format(place.url, place.repository, tag)
    if not by_key[key] then
      by_key[key] = { key = key, tag = tag, targets = {}, movable = false, place = { url = place.url,
        repository = place.repository, credentials = place.credentials } }
      list[#list + 1] = by_key[key]
    end
    local push = by_key[key]
    if push.targets[#push.targets] ~= target then push.targets[#push.targets + 1] = target end
    push.movable = push.movable or movable
  end
  for _, target in ipairs(plan.targets) do
    if target.registry then
      add(target, tags.own(plan, target, hash, commit), false)
      for _, tag in ipairs(target.registry.tags) do add(target, tag, true) end
    end
  end
  table.sort(list, function(a, b)
    if #a.targets ~= #b.targets then return #a.targets < #b.targets end
    return a.key < b.key
  end)
  return list
end

return tags
