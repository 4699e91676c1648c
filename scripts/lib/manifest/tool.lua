-- `buildq manifest check|convert|hash|schema`: what the command prints. Each function gets the decoded manifest and
-- what the command line said, and returns an exit code, what goes to standard output and what to standard error.

local hash = require "manifest.hash"
local manifest = require "manifest"
local schema = require "manifest.schema"

local tool = {}

---@class ToolOptions
---@field file string the manifest's name, for messages
---@field trusted boolean false: as in a request
---@field json boolean
---@field tier? string what a request would say
---@field architecture? string
---@field cloudProvider? string

local function line(kind, fault)
  local value = fault.value ~= nil and (" (%s)"):format(tostring(fault.value)) or ""
  return ("%s %s%s: %s\n"):format(kind, fault.path, value, fault.message)
end

local function lines(kind, faults)
  local list = {}
  for index, fault in ipairs(faults) do list[index] = line(kind, fault) end
  return table.concat(list)
end

-- The manifest checked with what is built of it; faults of both.
local function read(decoded, options)
  local normal, faults, warnings = manifest.check(decoded, { trusted = options.trusted })
  local chosen
  if normal then
    chosen, faults = manifest.choose(normal, options)
    if chosen then faults = manifest.check_choice(normal, chosen) end
  end
  if #faults > 0 then return nil, nil, faults, warnings end
  return normal, chosen, faults, warnings
end

-- What it takes besides this server's own programs.
local function needs(plan, world)
  local wanted, missing = {}, {}
  local function want(program, why)
    if not wanted[program] and not world.has_program(program) then
      missing[#missing + 1] = ("%s (%s)"):format(program, why)
    end
    wanted[program] = true
  end
  if plan.system == "dotnet" then want("dotnet", "the .NET SDK") end
  if plan.system == "make" or plan.system == "cmake" then want(plan.system, "the build system") end
  want("git", "the source")
  for _, target in ipairs(plan.targets) do
    if target.registry then want("umoci", "images") want("skopeo", "images") end
  end
  return missing
end

local function plan_of(normal, chosen)
  local buildq = require "buildq"
  local world = { machine = buildq.config.MachineArchitecture, has_program = buildq.queue.has_program }
  return manifest.plan(normal, chosen, world), world
end

function tool.check(decoded, options)
  local json = require("buildq").json
  local normal, chosen, faults, warnings = read(decoded, options)
  if options.json then
    return #faults > 0 and 1 or 0, json.encode({ faults = faults, warnings = warnings }, { indent = 2 }) .. "\n", ""
  end
  local text = lines("FAULT", faults) .. lines("warning", warnings)
  if not normal then
    return 1, "", ("%s%s: %d fault%s\n"):format(text, options.file, #faults, #faults == 1 and "" or "s")
  end
  local plan, world = plan_of(normal, chosen)
  local missing = plan and needs(plan, world) or {}
  if #missing > 0 then text = text .. "needs what is not here: " .. table.concat(missing, ", ") .. "\n" end
  return 0, ("%s: no faults (%s form)\n"):format(options.file, normal.targets and "build" or "order"), text
end

--- What `buildq check` says of a file of ManifestDirectory.
---@param text string
---@return string? faults a line each
---@return string? needs what it needs that is not here
function tool.preflight(text)
  local decoded, message = require("buildq").json.decode(text, { relaxed = true })
  if decoded == nil then return message end
  local normal, faults = manifest.check(decoded, { trusted = true })
  if not normal then
    local list = {}
    for index, fault in ipairs(faults) do list[index] = fault.path .. ": " .. fault.message end
    return table.concat(list, "\n      ")
  end
  local chosen = manifest.choose(normal, {}) -- an order may leave it to the request
  local plan, world = nil, nil
  if chosen then plan, world = plan_of(normal, chosen) end
  local missing = plan and needs(plan, world) or {}
  return nil, #missing > 0 and "WARNING: it needs what is not here: " .. table.concat(missing, ", ") or nil
end

function tool.convert(decoded, options)
  local normal, chosen, faults = read(decoded, options)
  if not normal then return 1, "", lines("FAULT", faults) end
  local plan = plan_of(normal, chosen)
  if not plan then return 1, "", options.file .. " names nothing to build, nor does lib/product.lua\n" end
  return 0, require("buildq").json.encode(plan, { indent = 2 }) .. "\n", ""
end

function tool.hash(decoded, options)
  local normal, chosen, faults = read(decoded, options)
  if not normal then return 1, "", lines("FAULT", faults) end
  local plan = plan_of(normal, chosen)
  if not plan then return 1, "", options.file .. " names nothing to build, nor does lib/product.lua\n" end
  return 0, hash.of(plan, nil, require("buildq").sha256) .. "\n", ""
end

function tool.schema()
  return 0, require("buildq").json.encode(schema.make(), { indent = 2 }) .. "\n", ""
end

return tool
