-- Intake: from what somebody asked for to a row that can be built. The one place that decides what is accepted, for
-- requests over HTTP and for rows that an old program inserted.

local catalogue = require "catalogue"
local check = require "check"
local credentials = require "manifest.credentials"
local manifest = require "manifest"
local problem = require "problem"
local request = require "request"

local intake = {}

---@class IntakeWorld what intake needs of the server; the specs give their own
---@field read_manifest fun(path: string): string?, Failure?
---@field pipelines fun(): string[]
---@field needs? fun(pipeline: string): string[] the labels that a pipeline needs; none when absent
---@field allow_inline_commands boolean
---@field credentials table<string, {hosts: string[], customers: string[]}>
---@field has_program fun(name: string): boolean
---@field machine? string the architecture that compilers make here
---@field encode fun(value: any): string
---@field decode fun(text: string, options?: {relaxed: boolean}): any, string?
---@field sha256 fun(text: string): string

--- The world as the running server gives it.
---@return IntakeWorld
function intake.world()
  local buildq = require "buildq"
  return {
    read_manifest = buildq.queue.read_manifest,
    pipelines = buildq.queue.pipelines,
    needs = buildq.queue.needs,
    allow_inline_commands = buildq.config.AllowInlineCommands,
    credentials = buildq.config.Credentials,
    has_program = buildq.queue.has_program,
    machine = buildq.config.MachineArchitecture,
    encode = buildq.json.encode,
    decode = buildq.json.decode,
    sha256 = buildq.sha256,
  }
end

local function contains(list, wanted)
  for _, item in ipairs(list) do
    if item == wanted then return true end
  end
  return false
end

-- The decoded manifest of a file below ManifestDirectory, or nil and a sentence.
local function read(path, world)
  local text, failure = world.read_manifest(path)
  if not text then return nil, failure.message end
  local decoded, message = world.decode(text, { relaxed = true })
  if decoded == nil then return nil, ("the manifest %s is not JSON: %s"):format(path, message) end
  return decoded
end

local function prefixed(faults, prefix)
  for _, fault in ipairs(faults) do fault.path = fault.path:gsub("^%$", prefix, 1) end
  return faults
end

-- The faults of a request, and with them those of a manifest that came along or can't be read.
local function refuse(faults, asked, world)
  local more = {}
  if asked and asked.manifestPath and not asked.manifest then
    local decoded, message = read(asked.manifestPath, world)
    if decoded == nil then more[1] = { path = "$.manifestPath", value = asked.manifestPath, message = message } end
  elseif asked and check.is_object(asked.manifest) then
    local options = { trusted = world.allow_inline_commands, pipeline = asked.pipeline }
    local _, found = manifest.check(asked.manifest, options)
    more = prefixed(found, "$.manifest")
  end
  return problem.faults(table.move(more, 1, #more, #faults + 1, faults), "The request")
end

-- An architecture that nothing here compiles for. The .NET SDK compiles for all of them.
local function warning_of_machine(normal, chosen, world)
  if manifest.is_dotnet(normal) or not world.machine or chosen.architecture == world.machine then return nil end
  local known = catalogue.architectures[catalogue.architecture(chosen.architecture) or ""]
  if known and known.triplet and world.has_program(known.triplet .. "-gcc") then return nil end
  return { path = "$.architecture", value = chosen.architecture, message =
    ("is only told to the commands (BUILD_ARCHITECTURE): compilers make %s here unless they are told otherwise")
      :format(world.machine) }
end

--- What a build needs of the server that runs it: the manifest's labels, the pipeline's, and an SDK for what needs one;
--- each once, in order.
---@param normal table the checked manifest
---@param pipeline string
---@param labels? string[] the pipeline's
---@return string[]
function intake.needs(normal, pipeline, labels)
  local list, seen = check.array(), {}
  local implied = pipeline == manifest.default_pipeline and manifest.is_dotnet(normal) and { "dotnet" } or {}
  for _, source in ipairs { normal.needs or {}, labels or {}, implied } do
    for _, label in ipairs(source) do
      if not seen[label] then list[#list + 1], seen[label] = label, true end
    end
  end
  table.sort(list)
  return list
end

---@class Accepted
---@field fields EnqueueFields without id, answer, idempotency and requestId
---@field warnings Fault[]

--- Checks the decoded body of POST /builds.
---@param body any
---@param world IntakeWorld
---@return Accepted? accepted
---@return Response? refusal
function intake.submission(body, world)
  local asked, faults, faulty = request.submission(body, world.encode)
  if not asked then return nil, refuse(faults, faulty, world) end
  local decoded = asked.manifest
  if asked.manifestPath then
    local message
    decoded, message = read(asked.manifestPath, world)
    if decoded == nil then
      faults[1] = { path = "$.manifestPath", value = asked.manifestPath, message = message }
      return nil, problem.faults(faults, "The request")
    end
  end
  local trusted = asked.manifestPath ~= nil or world.allow_inline_commands
  local normal, manifest_faults, warnings = manifest.check(decoded, { trusted = trusted, pipeline = asked.pipeline })
  if not normal then
    if asked.manifest then prefixed(manifest_faults, "$.manifest") end
    return nil, problem.faults(manifest_faults, "The manifest")
  end
  local chosen, choice_faults = manifest.choose(normal, asked)
  if not chosen then return nil, problem.faults(choice_faults, "The request") end
  manifest_faults = manifest.check_choice(normal, chosen)
  local refused = credentials.check(normal, asked.customerId, world.credentials)
  table.move(refused, 1, #refused, #manifest_faults + 1, manifest_faults)
  if #manifest_faults > 0 then
    if asked.manifest then prefixed(manifest_faults, "$.manifest") end
    return nil, problem.faults(manifest_faults, "The manifest")
  end
  local pipeline = asked.pipeline or normal.pipeline or manifest.default_pipeline
  if not contains(world.pipelines(), pipeline) then
    return nil, problem.new(422, ("There is no pipeline %q here; there are: %s."):format(pipeline,
      table.concat(world.pipelines(), ", ")))
  end
  if asked.manifest then prefixed(warnings, "$.manifest") end
  local warning = pipeline == manifest.default_pipeline and warning_of_machine(normal, chosen, world)
  if warning then warnings[#warnings + 1] = warning end
  return {
    warnings = warnings,
    fields = {
      customerId = asked.customerId,
      customerName = asked.customerName,
      customerEmail = asked.customerEmail,
      configurationName = asked.configurationName,
      manifestPath = asked.manifestPath or "inline:" .. world.sha256(world.encode(normal)),
      manifest = normal,
      trusted = trusted,
      tier = chosen.tier,
      architecture = chosen.architecture,
      cloudProvider = chosen.cloudProvider,
      priority = asked.priority,
      pipeline = pipeline,
      metadata = asked.metadata,
      needs = intake.needs(normal, pipeline, world.needs and world.needs(pipeline)),
    },
  }
end

--- Checks a claimed row that a plain INSERT made (see buildq.d.lua).
---@param row PlainRow
---@param world? IntakeWorld the server's when absent
---@return Adopted? adopted
---@return string? message why it can't be built
function intake.adopt(row, world)
  world = world or intake.world()
  local decoded, message = row.manifest, nil
  if decoded == nil then decoded, message = read(row.manifestPath, world) end
  if decoded == nil then return nil, message end
  local normal, faults = manifest.check(decoded, { trusted = true })
  local chosen
  if normal then chosen, faults = manifest.choose(normal, row) end
  if chosen then faults = manifest.check_choice(normal, chosen) end
  if #faults > 0 then
    local lines = {}
    for index, fault in ipairs(faults) do lines[index] = ("%s %s"):format(fault.path, fault.message) end
    return nil, ("the manifest %s can't be built: %s"):format(row.manifestPath, table.concat(lines, "; "))
  end
  local pipeline = normal.pipeline or manifest.default_pipeline
  if not contains(world.pipelines(), pipeline) then
    return nil, ("the manifest %s names the pipeline %q, which does not exist here"):format(row.manifestPath, pipeline)
  end
  return { manifest = normal, trusted = true, pipeline = pipeline }
end

return intake
