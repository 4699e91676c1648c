-- The manifest: checks what comes from outside and gives it back in one shape.
--
--   local normal, faults, warnings = manifest.check(decoded, {trusted = true})
--   local plan = manifest.plan(normal, chosen)
--
-- Two forms are taken: the order form (manifest.order) and the build form (manifest.build), which has `repositories` or
-- `targets` at its top. The pipeline works on the plan (manifest.plan), the one inner form that both become.
-- Pure Lua: it needs no server. Names come in any case and leave in camelCase; lists are always there, nulls never.
-- A fault refuses the manifest, a warning names what is asked for and nothing acts on.

local build = require "manifest.build"
local catalogue = require "catalogue"
local check = require "check"
local order = require "manifest.order"
local plan = require "manifest.plan"
local rules = require "manifest.rules"

local manifest = {}

manifest.default_pipeline = order.default_pipeline
manifest.systems = order.systems
manifest.is_local, manifest.local_path = rules.is_local, rules.local_path
manifest.stays_inside = rules.stays_inside
manifest.plan = plan.make

--- Whether the .NET build system builds a checked manifest.
function manifest.is_dotnet(normal) return normal.targets ~= nil or order.is_dotnet(normal) end

--- Whether it is the build form: `repositories` or `targets` at its top, in any case.
---@param decoded any
function manifest.is_build_form(decoded)
  if not check.is_object(decoded) then return false end
  for key in pairs(decoded) do
    local name = tostring(key):lower()
    if name == "repositories" or name == "targets" then return true end
  end
  return false
end

-- The machine that the checks are for, when nobody says it: this server's, or one without cross compilers.
local function here()
  local ok, buildq = pcall(require, "buildq")
  if ok and buildq.config then
    return { machine = buildq.config.MachineArchitecture, has_program = buildq.queue.has_program }
  end
  return { machine = "linux-x64", has_program = function() return false end }
end

---@class ManifestOptions
---@field trusted? boolean it may hold commands, local paths and file: URLs
---@field pipeline? string the one that a request asks for; it wins over the manifest's
---@field world? ManifestWorld what of the machine matters; this server's when absent

--- Checks a decoded manifest.
---@param decoded any what json.decode gave
---@param options? ManifestOptions
---@return table? normal nil when there are faults
---@return Fault[] faults
---@return Fault[] warnings
function manifest.check(decoded, options)
  options = options or {}
  local c = check.new()
  local normal
  if manifest.is_build_form(decoded) then
    normal = build.check(c, decoded, options.trusted == true, options.world or here())
  else
    normal = order.check(c, decoded, options.trusted == true, options.pipeline)
  end
  if #c.faults > 0 then return nil, c.faults, c.warnings end
  return normal, c.faults, c.warnings
end

local function find_word(words, wanted, canonical)
  for _, word in ipairs(words) do
    if word:lower() == wanted:lower() then return word end
  end
  local meant = canonical and canonical(wanted)
  for _, word in ipairs(words) do
    if meant and canonical(word) == meant then return word end
  end
  return nil
end

-- What the manifest offers of each, in its order, every word once.
local function offers(normal)
  if not normal.targets then
    local offered = { tier = { normal.tier }, architecture = { normal.architecture }, cloudProvider = {} }
    for index, target in ipairs(normal.cloudTargets) do offered.cloudProvider[index] = target.provider end
    return offered
  end
  local offered = { tier = {}, architecture = {}, cloudProvider = {} }
  for index, target in ipairs(normal.targets) do
    offered.tier[index], offered.architecture[index] = target.tier, target.architecture
    offered.cloudProvider[index] = target.provider
  end
  return offered
end

local CANONICAL <const> = { tier = catalogue.tier, architecture = catalogue.architecture }

--- What the row says is built: the request's tier, architecture and cloud must be among the manifest's; what the
--- request leaves out comes from it, of a build form from its first target. The manifest's spelling is the one that
--- counts.
---@param normal table
---@param asked {tier?: string, architecture?: string, cloudProvider?: string}
---@return {tier: string, architecture: string, cloudProvider: string}? chosen
---@return Fault[] faults
function manifest.choose(normal, asked)
  local c = check.new()
  local offered, chosen = offers(normal), {}
  for _, name in ipairs { "tier", "architecture", "cloudProvider" } do
    local words, wanted = offered[name], asked[name]
    local path = "$." .. name
    if wanted == "" and #words > 0 then wanted = nil end -- of a row by plain SQL, or `buildq run`
    if wanted and #words > 0 then
      chosen[name] = find_word(words, wanted, CANONICAL[name])
      if not chosen[name] then
        c:fault(path, wanted, ("is not among the manifest's: %s"):format(table.concat(words, ", ")))
      end
    else
      chosen[name] = wanted or words[1]
      if not chosen[name] then c:fault(path, nil, "is required: neither the request nor the manifest names one") end
    end
  end
  if #c.faults > 0 then return nil, c.faults end
  return chosen, c.faults
end

--- The faults that show only when it is known what of an order is built.
---@param normal table
---@param chosen {tier: string, architecture: string}
---@return Fault[]
function manifest.check_choice(normal, chosen)
  local c = check.new()
  if normal.targets or not order.is_dotnet(normal) then return c.faults end
  local whole = {}
  for name, value in pairs(normal) do whole[name] = value end
  whole.tier, whole.architecture = chosen.tier, chosen.architecture
  order.check_product(c, whole)
  return c.faults
end

return manifest
