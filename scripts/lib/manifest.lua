-- The order-form manifest: checks it and gives it back in one shape.
--
--   local normal, faults, warnings = manifest.check(decoded, {trusted = true})
--
-- Pure Lua: it needs no server. Names come in any case and leave in camelCase; lists are always there, nulls never.
-- A fault refuses the manifest, a warning names what is asked for and nothing acts on yet.

local check = require "check"
local product = require "product"

local manifest = {}

manifest.default_pipeline = "honua-server"
manifest.systems = { make = true, cmake = true, command = true }

local ROOT <const> = {
  "version", "name", "architecture", "modules", "databaseConnectors", "cloudTargets", "resources",
  "environmentVariables", "tier", "tags", "generatedAt", "pipeline", "source", "build",
}
local TARGET <const> = { "provider", "region", "instanceType", "registryUrl", "configuration" }
local RESOURCES <const> = { "minCpu", "minMemoryGb", "recommendedCpu", "recommendedMemoryGb", "storageGb" }

-- Characters, as the row's columns count them, and items.
local LIMIT <const> = {
  word = 50, text = 255, url = 2048, path = 1024, command = 8192, variable = 32768,
  modules = 500, connectors = 100, targets = 50, settings = 200, variables = 500, tags = 100,
  commands = 100, arguments = 200, make_targets = 100,
}

-- Transports that git may use with a repository from an inline manifest.
local REMOTE <const> = { https = true, http = true, ssh = true, git = true }

--- Whether a repository is read from this machine's disk: a path, or a file: URL.
function manifest.is_local(repository)
  if repository:find("^[fF][iI][lL][eE]:") then return true end
  if repository:find("^%a[%w+.-]*://") then return false end
  local host = repository:match("^([^/]-):") -- git@host:path has a colon before the first slash
  return host == nil
end

--- The path that a local repository names, without the file: scheme.
function manifest.local_path(repository)
  return (repository:gsub("^[fF][iI][lL][eE]:", ""):gsub("^//[^/]*/", "/"))
end

--- Whether a relative path stays where it begins.
function manifest.stays_inside(path)
  if path:sub(1, 1) == "/" then return false end
  for segment in path:gmatch("[^/]+") do
    if segment == ".." then return false end
  end
  return true
end

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
  if repository:sub(1, 1) == "-" then return c:fault(path, repository, "must not begin with a dash") end
  if repository:find("::", 1, true) then
    return c:fault(path, nil, 'must not name a git remote helper ("name::address")')
  end
  if repository:find("^%a[%w+.-]*://[^/]*:[^/@]*@") then
    return c:fault(path, nil, "must not hold a password: it would reach logs; use a secret of the pipeline")
  end
  if manifest.is_local(repository) then
    if not trusted then
      return c:fault(path, repository,
        "is on the server's disk, which only manifests from ManifestDirectory may name (or AllowInlineCommands)")
    end
    return no_dots(c, manifest.local_path(repository), path) and repository
  end
  local scheme = repository:match("^(%a[%w+.-]*)://")
  if scheme and not REMOTE[scheme:lower()] then
    return c:fault(path, repository, "must be an https, http, ssh or git URL")
  end
  -- ssh takes a host that begins with a dash for an option.
  local host = scheme and repository:match("^[^/]*//([^/]*)") or repository:match("^([^:]*)")
  if not host or host == "" or host:find("^%-") or host:find("@-", 1, true) then
    return c:fault(path, repository, "must name a host")
  end
  return repository
end

local function check_ref(c, value)
  local path = "$.source.ref"
  local ref = c:text(value, path, { max = LIMIT.text })
  if not ref then return nil end
  if ref:sub(1, 1) == "-" then return c:fault(path, ref, "must not begin with a dash") end
  if ref:find("[^%w._/@+#=,-]") or ref:find("..", 1, true) or ref:find("@{", 1, true) then
    return c:fault(path, ref, "must be a branch, a tag or a commit")
  end
  return ref
end

local function check_source(c, value, trusted)
  local fields = c:object(value, "$.source", { "repository", "ref", "path" }, unknown_in(c))
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
  return { repository = check_repository(c, fields.repository, trusted), ref = check_ref(c, fields.ref), path = path }
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
  if system and not manifest.systems[system] then
    system = c:fault("$.build.system", fields.system, "must be make, cmake or command")
  elseif fields.system == nil then
    c:fault("$.build.system", nil, "is required: make, cmake or command")
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

local function check_target(c, value, path)
  local fields = c:object(value, path, TARGET, unknown_in(c))
  if not fields then return nil end
  local provider = c:text(fields.provider, path .. ".provider", { max = LIMIT.word })
  if fields.provider == nil then c:fault(path .. ".provider", nil, "is required") end
  local target = {
    provider = provider,
    region = c:text(fields.region, path .. ".region", { max = LIMIT.text }),
    instanceType = c:text(fields.instanceType, path .. ".instanceType", { max = LIMIT.text }),
    registryUrl = c:text(fields.registryUrl, path .. ".registryUrl", { max = LIMIT.url }),
    configuration = check_settings(c, fields.configuration, path .. ".configuration"),
  }
  if target.registryUrl and target.registryUrl:sub(1, 1) == "-" then
    target.registryUrl = c:fault(path .. ".registryUrl", target.registryUrl, "must not begin with a dash")
  end
  if target.registryUrl then
    c:warn(path .. ".registryUrl", "container images are not pushed yet; the archive is published for download")
  end
  for _, name in ipairs { "region", "instanceType" } do
    if target[name] then c:warn(path .. "." .. name, "nothing acts on it yet; it is kept with the build") end
  end
  if next(target.configuration) then
    c:warn(path .. ".configuration", "nothing acts on it yet; it is kept with the build")
  end
  return target
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
  if next(resources) then c:warn("$.resources", "nothing acts on it yet; it is kept with the build") end
  return resources
end

local function check_variables(c, value)
  local path = "$.environmentVariables"
  local variables = c:map(value, path, LIMIT.variables, function(item, item_path, key)
    if not key:find("^[%a_][%w_.-]*$") or #key > LIMIT.text then
      return c:fault(item_path, nil, "is not a name that an environment variable can have")
    end
    if type(item) == "number" or type(item) == "boolean" then return tostring(item) end
    return c:text(item, item_path, { max = LIMIT.variable, min = 0, lines = true, secret = true })
  end)
  if next(variables) then
    c:warn(path, "they are for the built server when it runs; nothing packs them into its image yet")
  end
  return variables
end

local function warn_of_unused_lists(c, normal)
  for _, name in ipairs { "modules", "databaseConnectors" } do
    if #normal[name] > 0 then
      c:warn("$." .. name, "nothing selects by it yet: the whole product is built; it is kept with the build")
    end
  end
  for index = 2, #normal.cloudTargets do
    c:warn(check.join("$.cloudTargets", index - 1), "one target is built, the request's or the first; the others later")
  end
end

---@class ManifestOptions
---@field trusted? boolean it may hold commands, local paths and file: URLs
---@field pipeline? string the one that a request asks for; it wins over the manifest's

--- Checks a decoded manifest.
---@param decoded any what json.decode gave
---@param options? ManifestOptions
---@return table? normal nil when there are faults
---@return Fault[] faults
---@return Fault[] warnings
function manifest.check(decoded, options)
  local trusted = options ~= nil and options.trusted == true
  local c = check.new()
  local fields = c:object(decoded, "$", ROOT, unknown_in(c))
  if not fields then return nil, c.faults, c.warnings end
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
  }
  if normal.version ~= "1.0" then c:fault("$.version", normal.version, 'must be "1.0"') end
  if normal.generatedAt and not normal.generatedAt:find("^%d%d%d%d%-%d%d%-%d%d[T ]%d%d:%d%d") then
    c:fault("$.generatedAt", normal.generatedAt, "must be a time as in 2026-01-31T12:00:00Z")
  end
  if fields.resources ~= nil then normal.resources = check_resources(c, fields.resources) end
  if fields.source ~= nil then normal.source = check_source(c, fields.source, trusted) end
  if fields.build ~= nil then normal.build = check_build(c, fields.build, trusted) end
  warn_of_unused_lists(c, normal)
  local pipeline = options and options.pipeline or normal.pipeline or manifest.default_pipeline
  if pipeline == manifest.default_pipeline then
    if fields.source == nil and not product.source then
      c:warn("$.source", "is missing, and lib/product.lua names none: the pipeline honua-server has nothing to build")
    elseif fields.build == nil and not product.build then
      c:warn("$.build", "is missing, and lib/product.lua names none: the pipeline honua-server has nothing to build")
    end
  end
  if #c.faults > 0 then return nil, c.faults, c.warnings end
  return normal, c.faults, c.warnings
end

local function find_word(words, wanted)
  for _, word in ipairs(words) do
    if word:lower() == wanted:lower() then return word end
  end
  return nil
end

--- What is built: the request's tier, architecture and cloud must be among the manifest's; what the request leaves
--- out comes from it. The manifest's spelling is the one that counts.
---@param normal table
---@param asked {tier?: string, architecture?: string, cloudProvider?: string}
---@return {tier: string, architecture: string, cloudProvider: string}? chosen
---@return Fault[] faults
function manifest.choose(normal, asked)
  local c = check.new()
  local offered = { tier = { normal.tier }, architecture = { normal.architecture }, cloudProvider = {} }
  for index, target in ipairs(normal.cloudTargets) do offered.cloudProvider[index] = target.provider end
  local chosen = {}
  for _, name in ipairs { "tier", "architecture", "cloudProvider" } do
    local words, wanted = offered[name], asked[name]
    local path = "$." .. name
    if wanted and #words > 0 then
      chosen[name] = find_word(words, wanted)
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

return manifest
