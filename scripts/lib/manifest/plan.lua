-- The inner form that both forms of the manifest become: what the pipeline works on, and what is hashed.

local build = require "manifest.build"
local catalogue = require "catalogue"
local check = require "check"
local fields = require "manifest.fields"
local product = require "product"

local plan = {}

---@class PlanRepository
---@field name string
---@field url? string a remote or a local repository; nil: `path` alone is the source
---@field ref? string
---@field path? string of a url: the directory to build in; alone: a directory or bundle below ManifestDirectory
---@field credentials? string
---@field projects string[]

---@class PlanTarget
---@field id string a file name
---@field provider string
---@field compute? string
---@field architecture string
---@field tier string
---@field region? string
---@field settings table what an order's cloudTargets[].configuration says
---@field optimizations table all of them, settled
---@field registry? {url: string, repository: string, tagStrategy: string, tags: string[], credentials?: string}

---@class Plan
---@field form "order"|"build"
---@field name string
---@field version string
---@field system string a name of toolchain.systems
---@field commands (string|string[])[]
---@field make_targets string[]
---@field repositories PlanRepository[]
---@field selects string[] text of the paths of projects that are built, in lower case, sorted
---@field targets PlanTarget[]
---@field parallelism integer
---@field timeout number seconds that one publish may take
---@field cache boolean
---@field environment? string
---@field region? string
---@field limits {cpu?: number, memory?: number, disk?: number} of what runs later; memory and disk in GB
---@field properties table<string, string>
---@field variables table<string, string>
---@field description? string

local function copy_of_registry(registry)
  if not registry then return nil end
  return { url = registry.url, repository = registry.repository, tagStrategy = registry.tagStrategy,
    tags = registry.tags, credentials = registry.credentialsVariable }
end

local function from_build(normal)
  local deployment = normal.deployment or {}
  local resources = deployment.resources or {}
  local repositories, selects, targets = {}, {}, {}
  for index, entry in ipairs(normal.repositories) do
    repositories[index] = { name = entry.name, url = entry.url, ref = entry.ref, credentials = entry.credentials,
      projects = entry.projects or check.array() }
  end
  for index, text in ipairs(normal.modules) do selects[index] = text:lower() end
  for index, entry in ipairs(normal.targets) do
    targets[index] = { id = entry.id, provider = entry.provider, compute = entry.compute, tier = entry.tier,
      architecture = entry.architecture, region = deployment.region, settings = {},
      optimizations = entry.optimizations, registry = copy_of_registry(entry.registry) }
  end
  return {
    form = "build", name = normal.name, version = normal.version, description = normal.description, system = "dotnet",
    commands = check.array(), make_targets = check.array(), repositories = repositories, selects = selects,
    targets = targets, parallelism = deployment.parallelism or 4, timeout = (resources.timeout or 60) * 60,
    cache = deployment.enableCache ~= false, environment = deployment.environment, region = deployment.region,
    limits = { cpu = resources.cpuLimit, memory = resources.memoryLimit, disk = resources.diskLimit },
    properties = normal.properties or {}, variables = normal.environmentVariables or {},
  }
end

-- What the paths of the projects contain that an order's modules and connectors stand for.
local function selection(normal)
  local chosen = {}
  local function take(entry)
    for _, text in ipairs(entry.projects) do chosen[text:lower()] = true end
  end
  for _, entry in pairs(catalogue.modules) do
    if entry.always then take(entry) end
  end
  for list, entries in pairs { modules = catalogue.modules, databaseConnectors = catalogue.connectors } do
    for _, text in ipairs(normal[list]) do
      local _, entry = catalogue.find(entries, text)
      if entry then take(entry) end
    end
  end
  local selects = {}
  for text in pairs(chosen) do selects[#selects + 1] = text end
  return selects
end

-- The product's own repository, and those that the catalogue names for what was ordered.
local function order_repositories(normal, source)
  local repositories = { { name = "product", url = source.repository, ref = source.ref, path = source.path,
    credentials = source.credentials, projects = check.array() } }
  local seen = {}
  for list, entries in pairs { modules = catalogue.modules, databaseConnectors = catalogue.connectors } do
    for _, text in ipairs(normal[list]) do
      local _, entry = catalogue.find(entries, text)
      local name = entry and entry.repository
      local from = name and catalogue.repositories[name]
      if from and not seen[name] then
        seen[name] = true
        repositories[#repositories + 1] = { name = name, url = from.url, ref = from.ref,
          credentials = from.credentials, projects = check.array() }
      end
    end
  end
  table.sort(repositories, function(a, b)
    if (a.name == "product") ~= (b.name == "product") then return a.name == "product" end
    return a.name < b.name
  end)
  return repositories
end

local function standard_optimizations(architecture, world)
  local result = {}
  for _, row in ipairs(fields.optimizations) do result[row.name] = row.standard end
  result.ilcOptions = check.array()
  result.nativeAot = catalogue.architectures[architecture] ~= nil and build.no_native(architecture, world) == nil
  return result
end

-- registryUrl is "host" or "host/name".
local function order_registry(target, name)
  if not target.registryUrl then return nil end
  local place = target.registryUrl:gsub("^https://", ""):gsub("/+$", "")
  local host, image = place:match("^([^/]+)/?(.*)$")
  return { url = host, repository = image ~= "" and image or build.image_name(name), tagStrategy = "manifest-hash",
    tags = check.array(), credentials = target.credentials }
end

local function order_targets(normal, chosen, world)
  local architecture = catalogue.architecture(chosen.architecture) or chosen.architecture
  local name = normal.name or "build"
  local clouds = normal.cloudTargets
  if #clouds == 0 then clouds = { { provider = chosen.cloudProvider, configuration = {} } } end
  local targets, used = {}, {}
  for index, cloud in ipairs(clouds) do
    local id = architecture:gsub("[^%w._-]+", "-"):gsub("^[.-]+", "")
    if #clouds > 1 then id = ("%s-%s"):format(id, (cloud.provider:lower():gsub("[^%w]+", "-"))) end
    used[id] = (used[id] or 0) + 1
    if used[id] > 1 then id = ("%s-%d"):format(id, used[id]) end
    targets[index] = { id = id, provider = cloud.provider, compute = cloud.instanceType, tier = chosen.tier,
      architecture = architecture, region = cloud.region, settings = cloud.configuration or {},
      optimizations = standard_optimizations(architecture, world), registry = order_registry(cloud, name) }
  end
  return targets
end

local function from_order(normal, chosen, world)
  local source, how = normal.source or product.source, normal.build or product.build
  if not source or not how then return nil end
  local resources = normal.resources or {}
  local dotnet = how.system == "dotnet"
  return {
    form = "order", name = normal.name, version = normal.version, system = how.system,
    commands = how.commands or check.array(), make_targets = how.targets or check.array(),
    repositories = dotnet and order_repositories(normal, source)
      or { { name = "source", url = source.repository, ref = source.ref, path = source.path,
             credentials = source.credentials, projects = check.array() } },
    selects = dotnet and selection(normal) or check.array(), targets = order_targets(normal, chosen, world),
    parallelism = 4, timeout = 3600, cache = true, region = nil,
    limits = { cpu = resources.recommendedCpu or resources.minCpu, disk = resources.storageGb,
      memory = resources.recommendedMemoryGb or resources.minMemoryGb },
    properties = {}, variables = normal.environmentVariables or {},
  }
end

--- What is built of a checked manifest. nil: it names nothing to build, nor does lib/product.lua.
---@param normal table as manifest.check gives it
---@param chosen {tier: string, architecture: string, cloudProvider: string} as manifest.choose gives it
---@param world ManifestWorld
---@return Plan?
function plan.make(normal, chosen, world)
  local result = normal.targets and from_build(normal) or from_order(normal, chosen, world)
  if not result then return nil end
  result.selects = check.array(result.selects)
  table.sort(result.selects)
  return result
end

--- Whether the manifest's author chose what is compiled; false: the shop did, in lib/product.lua and the catalogue.
function plan.is_foreign(normal)
  return normal.targets ~= nil or normal.source ~= nil
end

return plan
