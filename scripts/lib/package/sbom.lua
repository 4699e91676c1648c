-- A software bill of materials (CycloneDX 1.5, JSON): what the publish's .deps.json names, and the commits.

local buildq = require "buildq"
local fs, json = buildq.fs, buildq.json

local sbom = {}

local MAX_DEPS_BYTES <const> = 16 * 1024 * 1024

-- A package's content hash is base64 behind "sha512-"; CycloneDX wants hexadecimal digits.
local function hex_of(base64)
  local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  local bits, count, out = 0, 0, {}
  for char in base64:gsub("=+$", ""):gmatch(".") do
    local value = digits:find(char, 1, true)
    if not value then return nil end
    bits, count = (bits << 6 | value - 1) & 0xFFFFFF, count + 6
    if count >= 8 then
      count = count - 8
      out[#out + 1] = ("%02x"):format(bits >> count & 0xFF)
    end
  end
  return table.concat(out)
end

local function component(name, version, entry)
  local reference = ("pkg:nuget/%s@%s"):format(name, version)
  if entry.type == "project" then
    return { type = "library", name = name, version = version, ["bom-ref"] = name .. "@" .. version }
  end
  local hash = entry.sha512 and entry.sha512:match("^sha512%-(.+)$")
  local hex = hash and hex_of(hash)
  return { type = entry.type == "runtimepack" and "framework" or "library", name = name, version = version,
    purl = reference, ["bom-ref"] = reference,
    hashes = hex and #hex == 128 and json.array { { alg = "SHA-512", content = hex } } or nil }
end

--- Components out of the text of a .deps.json.
---@param text string
---@param into table<string, table> by bom-ref
function sbom.read_deps(text, into)
  local deps = json.decode(text, { relaxed = true })
  for key, entry in pairs(type(deps) == "table" and deps.libraries or {}) do
    local name, version = key:match("^(.-)/(.*)$")
    if name and type(entry) == "table" then
      local made = component(name:gsub("^runtimepack%.", ""), version, entry)
      into[made["bom-ref"]] = made
    end
  end
end

-- A publish has its .deps.json beside the program; of a native one it stays among what was made on the way.
local function deps_files(work, target)
  local published = work.published and work.published[target.id]
  if not published then return {} end
  local found = fs.glob(published.dir .. "/**/*.deps.json")
  if #found == 0 then found = fs.glob(published.artifacts .. "/bin/**/*.deps.json") end
  return found
end

local function sources(work)
  local list = json.array {}
  for _, from in ipairs(work.sources) do
    if from.repository and from.commit then
      list[#list + 1] = { type = "vcs", url = from.repository, comment = "commit " .. from.commit }
    end
  end
  return #list > 0 and list or nil
end

--- The bill of a target, as text.
---@param work Work
---@param target PlanTarget
---@return string
function sbom.make(work, target)
  local by_reference, components, references = {}, json.array {}, json.array {}
  for _, path in ipairs(deps_files(work, target)) do sbom.read_deps(fs.read(path, MAX_DEPS_BYTES), by_reference) end
  for reference in pairs(by_reference) do references[#references + 1] = reference end
  table.sort(references)
  for index, reference in ipairs(references) do components[index] = by_reference[reference] end
  local root = ("%s@%s"):format(work.plan.name, work.plan.version)
  local value = {
    bomFormat = "CycloneDX", specVersion = "1.5", version = 1,
    metadata = {
      timestamp = buildq.clock.now(work.time):sub(1, 19) .. "Z",
      tools = { components = json.array { { type = "application", name = "buildq" } } },
      component = { type = "application", name = work.plan.name, version = work.plan.version,
        ["bom-ref"] = root .. "#product", externalReferences = sources(work) },
      properties = json.array { { name = "buildq:target", value = target.id },
        { name = "buildq:architecture", value = target.architecture } },
    },
    components = components,
    dependencies = json.array { { ref = root .. "#product", dependsOn = references } },
  }
  return json.encode(value, { indent = 2 }) .. "\n"
end

return sbom
