-- The order form of the manifest, what the sales side writes: checks it and gives it back in one shape.

local catalogue = require "catalogue"
local check = require "check"
local product = require "product"
local rules = require "manifest.rules"

local order = {}

order.systems = { make = true, cmake = true, command = true, dotnet = true }

local ROOT <const> = {
  "version", "name", "architecture", "modules", "databaseConnectors", "cloudTargets", "resources",
  "environmentVariables", "tier", "tags", "generatedAt", "pipeline", "source", "build", "needs",
}
local TARGET <const> = { "provider", "region", "instanceType", "registryUrl", "configuration", "credentials" }
local RESOURCES <const> = { "minCpu", "minMemoryGb", "recommendedCpu", "recommendedMemoryGb", "storageGb" }

order.names, order.target_names, order.resource_names = ROOT, TARGET, RESOURCES

-- Characters, as the row's columns count them, and items.
local LIMIT <const> = {
  word = 50, text = 255, url = 2048, path = 1024, command = 8192, variable = 32768,
  modules = 500, connectors = 100, targets = 50, settings = 200, variables = 500, tags = 100,
  commands = 100, arguments = 200, make_targets = 100, needs = 32,
}

local function no_dots(c, path_text, path)
  for segment in path_text:gmatch("[^/]+") do
    if segment == ".." then return c:fault(path, path_text, 'must not hold ".." segments') end
  end
  return path_text
end

local function unknown_in(c)
  return function(path) c:warn(path, "is not a name that the manifest knows; it is ignored") end
end

local function texts(c, value, path, max)
  return c:list(value, path, max, function(item, item_path) return c:text(item, item_path, { max = LIMIT.text }) end)
end

local function check_repository(c, value, trusted)
  local path = "$.source.repository"
  local repository = c:text(value, path, { max = LIMIT.url, secret = true })
  if not repository then return nil end
  local message, hidden = rules.repository(repository, trusted)
  if message then return c:fault(path, not hidden and repository or nil, message) end
  return repository
end

local function check_ref(c, value)
  local ref = c:text(value, "$.source.ref", { max = LIMIT.text })
  local message = ref and rules.ref(ref)
  if message then return c:fault("$.source.ref", ref, message) end
  return ref
end

-- A name of the option Credentials.
local function check_name(c, value, path)
  local name = c:text(value, path, { max = 64 })
  local message = name and rules.name(name)
  if message then return c:fault(path, name, message) end
  return name
end

local function check_source(c, value, trusted)
  local fields = c:object(value, "$.source", { "repository", "ref", "path", "credentials" }, unknown_in(c))
  if not fields then return nil end
  local path = c:text(fields.path, "$.source.path", { max = LIMIT.path })
  if path then path = no_dots(c, path, "$.source.path") end
  if path and path:sub(1, 1) == "-" then path = c:fault("$.source.path", path, "must not begin with a dash") end
  if path and fields.repository and path:sub(1, 1) == "/" then
    path = c:fault("$.source.path", path, "must be relative: it is a directory of the repository")
  elseif path and not fields.repository and not trusted then
    path = c:fault("$.source.path", path,
      "is on the server's disk, which only manifests from ManifestDirectory may name (or AllowInlineCommands)")
  end
  if not fields.repository and not fields.path then
    c:fault("$.source", nil, "must name a repository, or a path below ManifestDirectory")
  end
  if fields.ref and not fields.repository and fields.path and not tostring(fields.path):find("%.bundle$") then
    c:fault("$.source.ref", fields.ref, "needs a repository or a git bundle")
  end
  local credentials = check_name(c, fields.credentials, "$.source.credentials")
  return { repository = check_repository(c, fields.repository, trusted), ref = check_ref(c, fields.ref), path = path,
    credentials = credentials }
end

local function check_command(c, value, path)
  if type(value) == "string" then return c:text(value, path, { max = LIMIT.command, lines = true }) end
  if not check.is_array(value) then
    return c:fault(path, value, "must be a shell line or an array of arguments, is " .. check.kind(value))
  end
  local argv = c:list(value, path, LIMIT.arguments, function(item, item_path)
    return c:text(item, item_path, { max = LIMIT.command, min = 0, lines = true })
  end)
  if #value == 0 or argv[1] == "" then return c:fault(path, nil, "must begin with a program") end
  return argv
end

local function check_make_target(c, value, path)
  local target = c:text(value, path, { max = LIMIT.text })
  if not target then return nil end
  if not target:find("^[%w_.][%w_./+-]*$") then
    return c:fault(path, target, "must be a target's name: letters, digits and _ . / + -, no dash at the beginning")
  end
  return target
end

local function check_build(c, value, trusted)
  local fields = c:object(value, "$.build", { "system", "commands", "targets" }, unknown_in(c))
  if not fields then return nil end
  local system = c:text(fields.system, "$.build.system", { max = LIMIT.word })
  if system then system = system:lower() end
  if system and not order.systems[system] then
    system = c:fault("$.build.system", fields.system, "must be make, cmake, dotnet or command")
  elseif fields.system == nil then
    c:fault("$.build.system", nil, "is required: make, cmake, dotnet or command")
  end
  local commands = c:list(fields.commands, "$.build.commands", LIMIT.commands, function(item, path)
    return check_command(c, item, path)
  end)
  if check.is_array(fields.commands) and #fields.commands > 0 and not trusted then
    c:fault("$.build.commands", nil,
      "are only for manifests from ManifestDirectory (or with AllowInlineCommands)")
  end
  if system == "command" and (type(fields.commands) ~= "table" or #fields.commands == 0) then
    c:fault("$.build.commands", nil, "must hold at least one command when the system is command")
  end
  local targets = c:list(fields.targets, "$.build.targets", LIMIT.make_targets, function(item, path)
    return check_make_target(c, item, path)
  end)
  if system == "command" and #targets > 0 then
    c:warn("$.build.targets", "have no meaning when the system is command; they are ignored")
  end
  return { system = system, commands = commands, targets = targets }
end

local function check_label(c, value, path)
  local label = c:text(value, path, { max = 64 })
  local message = label and rules.label(label)
  if message then return c:fault(path, label, message) end
  return label
end

local function check_settings(c, value, path)
  return c:map(value, path, LIMIT.settings, function(item, item_path, key)
    if not c:text(key, item_path, { max = LIMIT.text, secret = true }) then return nil end
    if type(item) == "table" then
      return c:fault(item_path, item, "must be a string, a number or a boolean, is " .. check.kind(item))
    end
    if type(item) ~= "string" then return item end
    return c:text(item, item_path, { max = LIMIT.variable, min = 0, lines = true, secret = true })
  end)
end

-- A registry and, behind its first slash, the image's name there. Old forms put https:// before it.
local function check_registry(c, value, path)
  local url = c:text(value, path, { max = LIMIT.url })
  if not url then return nil end
  local place = url:gsub("^https://", ""):gsub("/+$", "")
  local host, image = place:match("^([^/]+)/?(.*)$")
  local message = rules.registry(host or "") or (image ~= "" and rules.image(image) or nil)
  if message then return c:fault(path, url, message) end
  return url
end

local function check_target(c, value, path)
  local fields = c:object(value, path, TARGET, unknown_in(c))
  if not fields then return nil end
  local provider = c:text(fields.provider, path .. ".provider", { max = LIMIT.word })
  if fields.provider == nil then c:fault(path .. ".provider", nil, "is required") end
  return {
    provider = provider,
    region = c:text(fields.region, path .. ".region", { max = LIMIT.text }),
    instanceType = c:text(fields.instanceType, path .. ".instanceType", { max = LIMIT.text }),
    registryUrl = check_registry(c, fields.registryUrl, path .. ".registryUrl"),
    configuration = check_settings(c, fields.configuration, path .. ".configuration"),
    credentials = check_name(c, fields.credentials, path .. ".credentials"),
  }
end

local function check_resources(c, value)
  local fields = c:object(value, "$.resources", RESOURCES, unknown_in(c))
  if not fields then return nil end
  local resources = {}
  for _, name in ipairs(RESOURCES) do
    resources[name] = c:number(fields[name], "$.resources." .. name, 0, 1000000)
  end
  for _, what in ipairs { "Cpu", "MemoryGb" } do
    local least, better = resources["min" .. what], resources["recommended" .. what]
    if least and better and better < least then
      c:fault("$.resources.recommended" .. what, better, ("must not be less than min%s: %s"):format(what, least))
    end
  end
  return resources
end

local function check_variables(c, value)
  local path = "$.environmentVariables"
  return c:map(value, path, LIMIT.variables, function(item, item_path, key)
    if not key:find("^[%a_][%w_.-]*$") or #key > LIMIT.text then
      return c:fault(item_path, nil, "is not a name that an environment variable can have")
    end
    if type(item) == "number" or type(item) == "boolean" then return tostring(item) end
    return c:text(item, item_path, { max = LIMIT.variable, min = 0, lines = true, secret = true })
  end)
end

-- Modules and connectors select only what the .NET build system makes.
local function check_selection(c, normal)
  local _, have = catalogue.tier(normal.tier or "")
  for list, entries in pairs { modules = catalogue.modules, databaseConnectors = catalogue.connectors } do
    for index, text in ipairs(normal[list]) do
      local path = ("$.%s[%d]"):format(list, index - 1)
      local name, entry = catalogue.find(entries, text)
      local _, need = catalogue.tier(entry and entry.tier or "")
      if not name then
        c:fault(path, text, "is not in the catalogue; there are: " .. catalogue.names(entries))
      elseif have and need > have then
        c:fault(path, text, ("needs the tier %s at least; the order's is %s"):format(entry.tier, normal.tier))
      end
    end
  end
end

--- The checks of an order that the .NET build system makes.
function order.check_product(c, normal)
  local message = normal.architecture and rules.architecture(normal.architecture)
  if message then c:fault("$.architecture", normal.architecture, message) end
  message = normal.tier and rules.tier(normal.tier)
  if message then c:fault("$.tier", normal.tier, message) end
  check_selection(c, normal)
end

--- Whether an order is built by the .NET build system: it says so, or it says nothing and lib/product.lua does.
function order.is_dotnet(normal)
  local plan = normal.build or product.build
  return plan ~= nil and plan.system == "dotnet"
end

local function warn(c, normal, pipeline, fields)
  if not order.is_dotnet(normal) then
    for _, name in ipairs { "modules", "databaseConnectors" } do
      if #normal[name] > 0 then
        c:warn("$." .. name, "selects only what build.system dotnet makes: the whole source is built")
      end
    end
  end
  if pipeline ~= order.default_pipeline then return end
  if fields.source == nil and not product.source then
    c:warn("$.source", "is missing, and lib/product.lua names none: the pipeline honua-server has nothing to build")
  elseif fields.build == nil and not product.build then
    c:warn("$.build", "is missing, and lib/product.lua names none: the pipeline honua-server has nothing to build")
  end
end

order.default_pipeline = "honua-server"

--- Checks a decoded manifest of the order form.
---@param c Check
---@param decoded table
---@param trusted boolean
---@param pipeline? string the one that a request asks for
---@return table? normal nil when it is no object
function order.check(c, decoded, trusted, pipeline)
  local fields = c:object(decoded, "$", ROOT, unknown_in(c))
  if not fields then return nil end
  local normal = {
    version = c:text(fields.version, "$.version", { max = LIMIT.word }) or "1.0",
    name = c:text(fields.name, "$.name", { max = LIMIT.text }),
    architecture = c:text(fields.architecture, "$.architecture", { max = LIMIT.word }),
    tier = c:text(fields.tier, "$.tier", { max = LIMIT.word }),
    pipeline = c:text(fields.pipeline, "$.pipeline", { max = LIMIT.text }),
    generatedAt = c:text(fields.generatedAt, "$.generatedAt", { max = LIMIT.word }),
    modules = texts(c, fields.modules, "$.modules", LIMIT.modules),
    databaseConnectors = texts(c, fields.databaseConnectors, "$.databaseConnectors", LIMIT.connectors),
    tags = texts(c, fields.tags, "$.tags", LIMIT.tags),
    cloudTargets = c:list(fields.cloudTargets, "$.cloudTargets", LIMIT.targets, function(item, path)
      return check_target(c, item, path)
    end),
    environmentVariables = check_variables(c, fields.environmentVariables),
    needs = fields.needs ~= nil and c:list(fields.needs, "$.needs", LIMIT.needs, function(item, path)
      return check_label(c, item, path)
    end) or nil,
  }
  if normal.version ~= "1.0" then c:fault("$.version", normal.version, 'must be "1.0"') end
  local message = normal.generatedAt and rules.time(normal.generatedAt)
  if message then c:fault("$.generatedAt", normal.generatedAt, message) end
  if fields.resources ~= nil then normal.resources = check_resources(c, fields.resources) end
  if fields.source ~= nil then normal.source = check_source(c, fields.source, trusted) end
  if fields.build ~= nil then normal.build = check_build(c, fields.build, trusted) end
  local runs = pipeline or normal.pipeline or order.default_pipeline
  if runs == order.default_pipeline and order.is_dotnet(normal) then order.check_product(c, normal) end
  warn(c, normal, runs, fields)
  return normal
end

return order
