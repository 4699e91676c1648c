-- The build form of the manifest: checks it and gives it back with everything filled in that it leaves out.

local catalogue = require "catalogue"
local check = require "check"
local fields = require "manifest.fields"
local rules = require "manifest.rules"
local shape = require "manifest.shape"

local build = {}

---@class ManifestWorld what the checks need of the machine
---@field machine string the architecture that compilers make here
---@field has_program fun(name: string): boolean whether builds here find this program

--- Whether native code for an architecture can be made on a machine: nil, or why not.
---@param name string canonical
---@param world ManifestWorld
---@return string? reason
function build.no_native(name, world)
  local wanted, here = catalogue.architectures[name], catalogue.architectures[world.machine]
  if not here then return "native AOT is not made on " .. world.machine end
  if wanted.os ~= here.os then return "native AOT can't cross operating systems" end
  if wanted.libc ~= here.libc then return "native AOT for musl is not made on a machine with glibc" end
  if wanted.cpu == here.cpu then return nil end
  for _, program in ipairs { "clang", wanted.triplet .. "-gcc" } do
    if not world.has_program(program) then
      return ("native AOT for another processor needs clang and %s-gcc; %s is not here"):format(wanted.triplet, program)
    end
  end
  return nil
end

-- The target's word over the manifest's.
local function combine(general, own)
  local result = {}
  for _, row in ipairs(fields.optimizations) do
    local value = own[row.name]
    if value == nil or (row.type == "list" and #value == 0) then value = general[row.name] end
    result[row.name] = value
  end
  result.ilcOptions = result.ilcOptions or check.array()
  return result
end

-- What is unset becomes what goes together with what is set; what is set and doesn't is a fault.
local function settle(c, asked, architecture, path, world)
  local result = {}
  for _, row in ipairs(fields.optimizations) do
    result[row.name] = asked[row.name]
    if result[row.name] == nil then result[row.name] = row.standard end
  end
  local reason = build.no_native(architecture, world)
  if asked.nativeAot and reason then
    c:fault(path .. ".nativeAot", true, reason .. "; leave it out, and ReadyToRun is used")
  end
  for _, name in ipairs { "trim", "selfContained" } do
    if asked.nativeAot and asked[name] == false then
      c:fault(path .. "." .. name, false, "must be true with nativeAot: a native program is trimmed and self-contained")
    end
  end
  if asked.trim and asked.selfContained == false then
    c:fault(path .. ".trim", true, "needs selfContained: only what brings its runtime along can be trimmed")
  end
  if asked.nativeAot == nil then
    result.nativeAot = not reason and asked.trim ~= false and asked.selfContained ~= false
  end
  if result.selfContained == false and asked.trim == nil then result.trim = false end
  local vectors = catalogue.architectures[architecture].vectors
  if asked.vectorization and not table.concat(vectors, " "):find(asked.vectorization, 1, true) then
    c:fault(path .. ".vectorization", asked.vectorization,
      ("does not fit %s, which can have: %s"):format(architecture, table.concat(vectors, ", ")))
  end
  return result
end

-- Names that are the same in another case would be the same file on some systems.
local function unique(c, list, name, path)
  local seen = {}
  for index, entry in ipairs(list) do
    local text = entry[name]
    if text and seen[text:lower()] then
      c:fault(("%s[%d].%s"):format(path, index - 1, name), text, "is there already; each must be another")
    elseif text then
      seen[text:lower()] = true
    end
  end
end

local function check_repositories(c, list)
  unique(c, list, "name", "$.repositories")
  for index, entry in ipairs(list) do
    local path = ("$.repositories[%d]"):format(index - 1)
    if entry.access == "private" and not entry.credentials then
      c:fault(path .. ".credentials", nil, "is required when access is private: a name of the option Credentials")
    end
    if entry.credentials and entry.url and rules.is_local(entry.url) then
      c:fault(path .. ".credentials", entry.credentials, "has no use with a repository on the server's disk")
    end
  end
end

-- The lowest tier of each module of the catalogue that a text names outright.
local function check_tiers(c, normal)
  for index, text in ipairs(normal.modules) do
    local _, entry = catalogue.find(catalogue.modules, text)
    if not entry then _, entry = catalogue.find(catalogue.connectors, text) end
    for number, target in ipairs(entry and normal.targets or {}) do
      local _, have = catalogue.tier(target.tier or "")
      local _, need = catalogue.tier(entry.tier)
      if have and need > have then
        c:fault(("$.modules[%d]"):format(index - 1), text,
          ("needs the tier %s at least; $.targets[%d].tier is %s"):format(entry.tier, number - 1, target.tier))
        break
      end
    end
  end
end

-- Several targets under one tag become one index, so each must be for another platform.
local function check_tags(c, targets)
  local seen = {}
  for index, target in ipairs(targets) do
    local registry, machine = target.registry, catalogue.architectures[target.architecture]
    local place = registry and machine and ("%s/%s"):format(registry.url, registry.repository)
    for position, tag in ipairs(place and registry.tags or {}) do
      local key = ("%s:%s %s"):format(place, tag, machine.oci or target.architecture)
      if seen[key] then
        c:fault(("$.targets[%d].registry.tags[%d]"):format(index - 1, position - 1), tag,
          ("is a tag of %s for the same platform already"):format(seen[key]))
      end
      seen[key] = target.id
    end
    local strategy = place and registry.tagStrategy ~= "manifest-hash" and place .. " " .. registry.tagStrategy .. " "
      .. (machine.oci or target.architecture)
    if strategy and seen[strategy] then
      c:fault(("$.targets[%d].registry.tagStrategy"):format(index - 1), registry.tagStrategy,
        ("gives the tag that %s has for the same platform; use manifest-hash or another repository"):format(
          seen[strategy]))
    elseif strategy then
      seen[strategy] = target.id
    end
  end
end

local function finish_target(c, target, normal, index, world)
  local path = ("$.targets[%d]"):format(index - 1)
  if not target.architecture then return end
  target.architecture = catalogue.architecture(target.architecture)
  target.tier = catalogue.tier(target.tier or "core")
  if target.registry then
    local machine = catalogue.architectures[target.architecture]
    if machine.os ~= "linux" then
      c:fault(path .. ".registry", nil, "is for images, which only Linux targets have; leave it out for " ..
        target.architecture)
    end
    target.registry.repository = target.registry.repository or build.image_name(normal.name or "build")
  end
  local asked = combine(normal.optimizations or {}, target.optimizations or {})
  target.optimizations = settle(c, asked, target.architecture, path .. ".optimizations", world)
end

--- A name that an image can have, made of any text.
function build.image_name(text)
  local name = text:lower():gsub("[^%l%d]+", "-"):gsub("^-+", ""):gsub("-+$", "")
  return name ~= "" and name:sub(1, 100) or "build"
end

local function warn(c, normal)
  for index, target in ipairs(normal.targets) do
    local asked = target.optimizations
    if asked and asked.vectorization and not asked.nativeAot and not asked.readyToRun then
      c:warn(("$.targets[%d].optimizations.vectorization"):format(index - 1),
        "acts on code compiled ahead only, and this target has neither nativeAot nor readyToRun")
    end
    if asked and #asked.ilcOptions > 0 and not asked.nativeAot then
      c:warn(("$.targets[%d].optimizations.ilcOptions"):format(index - 1), "act with nativeAot only")
    end
  end
end

--- Checks a decoded manifest of the build form.
---@param c Check
---@param decoded table
---@param trusted boolean
---@param world ManifestWorld
---@return table? normal nil when it is no object
function build.check(c, decoded, trusted, world)
  local r = { c = c, trusted = trusted,
    unknown = function(path) c:warn(path, "is not a name that the manifest knows; it is ignored") end }
  local normal = shape.object(r, fields.root, decoded, "$")
  if not normal then return nil end
  normal.repositories, normal.targets = normal.repositories or {}, normal.targets or {}
  normal.modules = normal.modules or {}
  normal.deployment = normal.deployment or shape.object(r, fields.deployment, {}, "$.deployment")
  unique(c, normal.targets, "id", "$.targets")
  check_repositories(c, normal.repositories)
  for index, target in ipairs(normal.targets) do finish_target(c, target, normal, index, world) end
  check_tiers(c, normal)
  check_tags(c, normal.targets)
  warn(c, normal)
  return normal
end

return build
