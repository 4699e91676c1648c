-- An OCI image of a target: its files under /app on a base image, made by umoci from fixed times, so that the same
-- input gives the same digest.

local buildq = require "buildq"
local catalogue = require "catalogue"
local registry = require "package.registry"

local fs, json = buildq.fs, buildq.json

local image = {}

local NAME <const> = "image" -- what it is called in its layout
local USER <const> = "65532:65532" -- nobody's: no entry of a base image's /etc/passwd is needed
local PORT <const> = "8080"
local MANIFEST <const> = "application/vnd.oci.image.manifest.v1+json"

---@class Image
---@field target PlanTarget
---@field layout string directory of the OCI layout, relative to the workspace
---@field digest string "sha256:…"
---@field size integer of its manifest
---@field platform {os: string, architecture: string, variant?: string}

local function time_of(work) return buildq.clock.now(work.time):sub(1, 19) .. "Z" end

local function umoci(work, ...)
  return work.build:exec { argv = { "umoci", ... }, env = { SOURCE_DATE_EPOCH = tostring(work.time) } }
end

-- The command that makes a base for an architecture of Debian.
local function how_to_make(target)
  local machine = catalogue.architectures[target.architecture]
  if machine.libc ~= "gnu" then return "an image of a musl distribution" end
  return ("mmdebstrap --variant=minbase --architectures=%s --include=libstdc++6,ca-certificates bookworm base.tar, "
    .. "then umoci init, new and insert (scripts/README.md, Images)"):format(machine.oci)
end

--- What the image of a target stands on. nil and why when it can't have one.
---@param work Work
---@param target PlanTarget
---@param entry EntryPoint
---@return string? base nil: from scratch
---@return string? reason
function image.base(work, target, entry)
  local base = work.build.config.BaseImages[target.architecture]
  if base then return base end
  if entry.elf and not entry.elf.interpreter then return nil end
  local what = "needs the dotnet of a base"
  if entry.elf then what = "asks for the dynamic linker " .. entry.elf.interpreter end
  return nil, ("%s %s, and BaseImages names nothing for %s; make a base with: %s"):format(entry.file, what,
    target.architecture, how_to_make(target))
end

local function begin(work, target, layout, base)
  if not base then
    umoci(work, "init", "--layout", layout)
    umoci(work, "new", "--image", layout .. ":" .. NAME)
    return
  end
  local from = base:sub(1, 1) == "/" and "oci:" .. base or base
  registry.copy(work, from, ("oci:%s:%s"):format(layout, NAME), {
    mounts = base:sub(1, 1) == "/" and { [base] = "read" } or nil,
    arguments = { "--override-os", "linux", "--override-arch", catalogue.architectures[target.architecture].oci },
  })
end

-- The output as it is in the image: without symbols for debuggers, which the archive has, and with times and
-- permissions that say nothing of when and where it was made.
local function prepare(work, target)
  local dir = ".image-files/" .. target.id
  fs.copy(work.outputs[target.id], dir)
  work.build:exec { argv = { "sh", "-ec", [[
    find "$1" -type f '(' -name '*.pdb' -o -name '*.dbg' ')' -delete
    find "$1" -type d -exec chmod 755 {} +
    find "$1" -type f -perm -u+x -exec chmod 755 {} +
    find "$1" -type f ! -perm -u+x -exec chmod 644 {} +
    find "$1" -exec touch --no-dereference --date "@$2" {} +
  ]], "sh", dir, tostring(work.time) } }
  return dir
end

local function settings(work, target, entry)
  local argv = {}
  local function add(...) table.move({ ... }, 1, select("#", ...), #argv + 1, argv) end
  add("--config.user", USER, "--config.workingdir", "/app", "--config.exposedports", PORT .. "/tcp")
  add("--clear", "config.entrypoint", "--clear", "config.cmd")
  for _, word in ipairs(entry.argv) do add("--config.entrypoint", word) end
  if work.plan.system == "dotnet" then add("--config.env", "ASPNETCORE_HTTP_PORTS=" .. PORT) end
  local names = {}
  for name in pairs(work.plan.variables) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do add("--config.env", ("%s=%s"):format(name, work.plan.variables[name])) end
  -- OCI image specification, annotations.md
  local labels = { title = work.plan.name, version = work.plan.version, created = time_of(work),
    revision = work.source.commit, source = work.source.repository, description = work.plan.description }
  for _, name in ipairs { "title", "version", "created", "revision", "source", "description" } do
    if labels[name] then add("--config.label", ("org.opencontainers.image.%s=%s"):format(name, labels[name])) end
  end
  local machine = catalogue.architectures[target.architecture]
  add("--os", machine.os, "--architecture", machine.oci, "--created", time_of(work), "--author", "buildq")
  return argv
end

--- Makes the image of a target.
---@param work Work
---@param target PlanTarget
---@param entry EntryPoint
---@param base? string
---@return Image
function image.make(work, target, entry, base)
  local layout, machine = "images/" .. target.id, catalogue.architectures[target.architecture]
  if entry.elf and entry.elf.machine ~= machine.elf then
    work.build:fail(("%s of the target %s is made for another processor than %s; its image would not start"):format(
      entry.file, target.id, target.architecture), { retry = false })
  end
  fs.mkdir("images")
  begin(work, target, layout, base)
  local name, created = layout .. ":" .. NAME, time_of(work)
  umoci(work, "insert", "--rootless", "--image", name, "--history.created", created, "--history.author", "buildq",
    "--history.comment", "files of the product", "--history.created_by", "buildq", prepare(work, target), "/app")
  fs.remove(".image-files/" .. target.id)
  umoci(work, "config", "--image", name, "--history.created", created, "--history.author", "buildq",
    "--history.comment", "settings of the product", "--history.created_by", "buildq",
    table.unpack(settings(work, target, entry)))
  umoci(work, "gc", "--layout", layout)
  local index = json.decode(fs.read(layout .. "/index.json"))
  local manifest = index.manifests[1]
  work.build:log(("%s: image %s"):format(target.id, manifest.digest))
  return { target = target, layout = layout, digest = manifest.digest, size = manifest.size,
    platform = { os = machine.os, architecture = machine.oci } }
end

--- An index of images for several platforms, in a layout of its own.
---@param work Work
---@param images Image[]
---@param name string of the layout
---@return Image
function image.index(work, images, name)
  local layout = "images/" .. name
  local list = json.array {}
  for position, one in ipairs(images) do
    registry.copy(work, ("oci:%s:%s"):format(one.layout, NAME), ("oci:%s:%s"):format(layout, one.target.id))
    list[position] = { mediaType = MANIFEST, digest = one.digest, size = one.size, platform = one.platform }
  end
  table.sort(list, function(a, b)
    return a.platform.architecture .. a.digest < b.platform.architecture .. b.digest
  end)
  local media = "application/vnd.oci.image.index.v1+json"
  local text = json.encode { schemaVersion = 2, mediaType = media, manifests = list }
  local hash = buildq.sha256(text)
  fs.write(("%s/blobs/sha256/%s"):format(layout, hash), text)
  local digest = "sha256:" .. hash
  fs.write(layout .. "/index.json", json.encode { schemaVersion = 2, mediaType = media, manifests = json.array {
    { mediaType = media, digest = digest, size = #text,
      annotations = { ["org.opencontainers.image.ref.name"] = NAME } },
  } })
  return { layout = layout, digest = digest, size = #text, members = images, platform = {} }
end

image.name = NAME

return image
