-- deploy/: files that a customer starts the product with, from templates/deploy, by the target's provider.

local buildq = require "buildq"
local build_form = require "manifest.build"
local catalogue = require "catalogue"
local template = require "template"

local deploy = {}

-- What a provider gets; templates of images are left out where there is none.
---@type table<string, {template: string, file: string, image: boolean}[]>
deploy.files = {}

local COMPOSE <const> = { template = "docker/compose.yaml", file = "compose.yaml", image = true }
local KUBERNETES <const> = { template = "kubernetes/deployment.yaml", file = "kubernetes.yaml", image = true }
local UNIT <const> = { template = "on-premises/unit.service", file = "%s.service", image = false }

deploy.files.aws = {
  { template = "aws/ecs-task-definition.json", file = "ecs-task-definition.json", image = true }, COMPOSE, KUBERNETES,
}
deploy.files.azure = { { template = "azure/container-app.yaml", file = "container-app.yaml", image = true }, COMPOSE,
  KUBERNETES }
deploy.files.gcp = { { template = "gcp/cloud-run.yaml", file = "cloud-run.yaml", image = true }, COMPOSE, KUBERNETES }
deploy.files.kubernetes = { KUBERNETES, COMPOSE }
deploy.files.docker = { COMPOSE, KUBERNETES }
deploy.files["on-premises"] = { UNIT, COMPOSE, KUBERNETES }

-- JSON's form of a text is one of YAML's too (YAML 1.2, 1.2 and 7.3.1).
local function as_json(value) return buildq.json.encode(value) end

-- systemd.unit(5): backslashes, quotes and specifiers inside double quotes.
local function as_unit(value)
  local text = tostring(value):gsub("[\\\"]", "\\%0"):gsub("%%", "%%%%"):gsub("\n", "\\n"):gsub("\t", "\\t")
  return '"' .. text .. '"'
end

-- One line of a unit: no line break, no specifier.
local function as_unit_line(value) return (tostring(value):gsub("%c", " "):gsub("%%", "%%%%")) end

-- docker compose and Kubernetes put variables in where a value says $NAME or $(NAME); twice the sign is the sign.
local function as_compose(value) return (tostring(value):gsub("%$", "$$")) end
local function as_kubernetes(value) return (tostring(value):gsub("%$%(", "$$(")) end

-- The nearest that Fargate has: 256 to 4096 units of a processor, and memory from twice to eight times that.
local function fargate(cpu, memory)
  local units, wanted = 4096, (cpu or 0.5) * 1024
  for _, size in ipairs { 2048, 1024, 512, 256 } do
    if wanted <= size then units = size end
  end
  local megabytes = math.ceil((memory or 1) * 1024 / 1024) * 1024
  return units, math.tointeger(math.max(units * 2, math.min(units * 8, megabytes)))
end

local function number(value) return math.tointeger(value) or value end

--- What the templates are given.
---@param work Work
---@param target PlanTarget
---@param given {image?: string, digest?: string, archive: string, entry?: EntryPoint}
function deploy.data(work, target, given)
  local null, plan = buildq.json.null, work.plan
  local variables = buildq.json.array {}
  for name, value in pairs(plan.variables) do variables[#variables + 1] = { name = name, value = value,
    setting = name .. "=" .. value } end
  table.sort(variables, function(a, b) return a.name < b.name end)
  local units, megabytes = fargate(plan.limits.cpu, plan.limits.memory)
  local name, machine = build_form.image_name(plan.name):sub(1, 50), catalogue.architectures[target.architecture]
  local start = given.entry and table.concat(given.entry.argv, " "):gsub("/app/", "/opt/" .. name .. "/")
  if start and start:find("^dotnet ") then start = "/usr/bin/" .. start end
  local function or_null(value)
    if value == nil then return null end
    return value
  end
  return {
    name = name, title = plan.name, version = plan.version,
    environment = or_null(plan.environment),
    target = { id = target.id, provider = target.provider, architecture = target.architecture, tier = target.tier,
      compute = or_null(target.compute), region = or_null(target.region), settings = target.settings },
    image = or_null(given.image), digest = or_null(given.digest), archive = given.archive, port = 8080,
    start = or_null(start), group = "/ecs/" .. name, platform = or_null(machine and machine.oci),
    cpu = or_null(plan.limits.cpu and number(plan.limits.cpu)),
    memory = or_null(plan.limits.memory and ("%dMi"):format(math.ceil(plan.limits.memory * 1024))),
    memoryGb = or_null(plan.limits.memory and number(plan.limits.memory)),
    ecs = { cpu = tostring(units), memory = tostring(megabytes),
      architecture = target.architecture:find("arm64", 1, true) and "ARM64" or "X86_64" },
    variables = variables,
  }
end

--- The files of a target: name → text.
---@param work Work
---@param target PlanTarget
---@param given {image?: string, digest?: string, archive: string, entry?: EntryPoint}
---@return table<string, string>
function deploy.make(work, target, given)
  local engine = template.new {
    null = buildq.json.null,
    read = function(path) return buildq.templates.read(path) end,
    filters = { json = as_json, unit = as_unit, unit_line = as_unit_line, compose = as_compose,
      kubernetes = as_kubernetes },
  }
  local machine = catalogue.architectures[target.architecture]
  local data, files = deploy.data(work, target, given), {}
  local provider = catalogue.providers[target.provider:lower()] or "on-premises"
  for _, entry in ipairs(machine and machine.os == "linux" and deploy.files[provider] or {}) do
    local possible = given.image ~= nil or (not entry.image and given.entry ~= nil)
    if possible then
      files[entry.file:format(data.name)] = engine:render("deploy/" .. entry.template, data)
    end
  end
  return files
end

-- A target of each provider, with everything that a manifest can say and with nothing of it: every branch of a template
-- is entered by one of them.
local function samples()
  local list = {}
  for provider in pairs(deploy.files) do
    for _, full in ipairs { true, false } do
      local plan = { name = "sample", version = "1.0", environment = full and "production" or nil,
        limits = full and { cpu = 0.5, memory = 2 } or {},
        variables = full and { A = "it's \"50 %\" $HOME $(id)\nand: more #x", B = "" } or {} }
      local target = { id = "sample", provider = provider, architecture = full and "linux-x64" or "linux-arm64",
        tier = "pro", compute = full and "small" or nil, settings = full and { key = "value" } or {},
        region = full and "eu-west-1" or nil }
      list[#list + 1] = { plan = plan, target = target, full = full }
    end
  end
  return list
end

--- Renders every template, so that a fault of one is told when it is saved and not when a build has ended.
function deploy.check()
  for _, sample in ipairs(samples()) do
    local given = { image = "registry.example.org/sample@sha256:0", archive = "sample.tar.zst",
      digest = sample.full and "sha256:0" or nil, entry = { argv = { "/app/sample" }, file = "sample" } }
    for file, text in pairs(deploy.make({ plan = sample.plan }, sample.target, given)) do
      if file:find("%.json$") then
        local value, why = buildq.json.decode(text)
        if value == nil then error(("templates/deploy makes a %s that is no JSON: %s"):format(file, why), 0) end
      end
    end
  end
end

return deploy
