-- A JSON Schema of the manifest for editors: the build form from manifest.fields, the order form as manifest.order
-- checks it. It says what editors can tell at once; `buildq manifest check` says all.

local catalogue = require "catalogue"
local check = require "check"
local fields = require "manifest.fields"
local order = require "manifest.order"

local schema = {}

local object

local PATTERNS <const> = {
  name = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$", ref = "^[^-]", tag = "^[A-Za-z0-9_][A-Za-z0-9._-]*$",
  version = "^[A-Za-z0-9][A-Za-z0-9._+-]*$",
}

local function names_of(entries, aliases)
  local names = check.array()
  for name in pairs(entries) do names[#names + 1] = name end
  for name in pairs(aliases or {}) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local MAKERS <const> = {
  text = function(row)
    if row.check == "architecture" then
      return { type = "string", examples = names_of(catalogue.architectures, catalogue.architecture_names) }
    elseif row.check == "tier" then
      return { type = "string", examples = names_of(catalogue.tier_names) }
    end
    return { type = "string", maxLength = row.max, minLength = row.min or 1, pattern = PATTERNS[row.check] }
  end,
  word = function(row) return { type = "string", enum = check.array({ table.unpack(row.words) }) } end,
  number = function(row) return { type = "number", minimum = row.low, maximum = row.high } end,
  integer = function(row) return { type = "integer", minimum = row.low, maximum = row.high } end,
  boolean = function() return { type = "boolean" } end,
  object = function(row) return object(row.fields) end,
}

local function one(row)
  if row.type == "list" then
    local item = row.of.type and one(row.of) or object(row.of)
    return { type = "array", maxItems = row.max, minItems = row.required and 1 or nil, items = item }
  elseif row.type == "map" then
    return { type = "object", maxProperties = row.max,
      additionalProperties = { type = check.array { "string", "number", "boolean" } } }
  end
  return MAKERS[row.type](row)
end

function object(rows)
  local properties, required = {}, check.array()
  for _, row in ipairs(rows) do
    local entry = one(row)
    if row.help ~= "" then entry.description = row.help end
    entry.default = row.default
    if entry.default == nil then entry.default = row.standard end
    properties[row.name] = entry
    if row.required then required[#required + 1] = row.name end
  end
  return { type = "object", properties = properties, required = #required > 0 and required or nil }
end

local function text(max) return { type = "string", minLength = 1, maxLength = max } end
local function list(item, max) return { type = "array", items = item, maxItems = max } end

local function numbers(names)
  local properties = {}
  for _, name in ipairs(names) do properties[name] = { type = "number", minimum = 0 } end
  return { type = "object", properties = properties }
end

local function order_form()
  local target = { type = "object", required = check.array { "provider" }, properties = {
    configuration = { type = "object" } } }
  for _, name in ipairs(order.target_names) do target.properties[name] = target.properties[name] or text(2048) end
  local source = { type = "object", properties = {} }
  for _, name in ipairs { "repository", "ref", "path", "credentials" } do source.properties[name] = text(2048) end
  local command = { anyOf = check.array { { type = "string" }, list({ type = "string" }, 200) } }
  return { type = "object", properties = {
    version = { const = "1.0" }, name = text(255), architecture = text(50), tier = text(50), pipeline = text(255),
    generatedAt = text(50), tags = list(text(255), 100), modules = list({ type = "string",
      examples = names_of(catalogue.modules) }, 500), databaseConnectors = list({ type = "string",
      examples = names_of(catalogue.connectors) }, 100), cloudTargets = list(target, 50),
    resources = numbers(order.resource_names), environmentVariables = { type = "object" }, source = source,
    needs = list(text(64), 32),
    build = { type = "object", required = check.array { "system" }, properties = {
      system = { enum = names_of(order.systems) }, targets = list(text(255), 100), commands = list(command, 100) } },
  } }
end

--- The schema (draft 2020-12) as a value.
function schema.make()
  local build, sold = object(fields.root), order_form()
  build.title, sold.title = "build form", "order form"
  build.description = "What is built, down to the flags; it has repositories and targets."
  sold.description = "What was ordered: modules, connectors, clouds."
  sold["not"] = { anyOf = check.array { { required = check.array { "repositories" } },
    { required = check.array { "targets" } } } }
  return {
    ["$schema"] = "https://json-schema.org/draft/2020-12/schema",
    title = "Honua manifest",
    anyOf = check.array { build, sold },
  }
end

return schema
