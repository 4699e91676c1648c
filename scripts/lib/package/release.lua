-- What leaves a build: archives, sums, bills of materials, files to deploy with, images.

local buildq = require "buildq"
local catalogue = require "catalogue"
local deploy = require "package.deploy"
local entry_point = require "package.entry"
local hash = require "manifest.hash"
local image = require "package.image"
local registry = require "package.registry"
local sbom = require "package.sbom"
local tags = require "package.tags"

local archive, fs, json = buildq.archive, buildq.fs, buildq.json

local release = {}

local PACKAGE <const> = "package"

local function file_name(text)
  local name = text:gsub("[^%w._+-]+", "-"):gsub("^[-.]+", ""):gsub("[-.]+$", "")
  return name ~= "" and name:sub(1, 100) or "build"
end

local function add(work, name, kind, sha256)
  work.files[#work.files + 1] = { name = name, kind = kind, sha256 = sha256 }
end

local function add_text(work, name, kind, text)
  fs.write(PACKAGE .. "/" .. name, text)
  add(work, name, kind, buildq.sha256(text))
end

-- The archive of a target; targets that were compiled together have the same contents.
local function pack(work, target, name)
  local machine = catalogue.architectures[target.architecture]
  local file = name .. (machine and machine.os == "win" and ".zip" or ".tar.zst")
  local packed = archive.pack { dir = work.outputs[target.id], to = PACKAGE .. "/" .. file, prefix = name,
    mtime = work.plan.system == "dotnet" and work.time or nil }
  work.build:log(("%s: %d files, %d bytes"):format(file, packed.files, packed.size))
  add(work, file, "archive", packed.sha256)
  return file
end

-- nil: the target gets none, and the log says why. The second result: it was made for another target already.
local function make_image(work, target, entry)
  local machine = catalogue.architectures[target.architecture]
  local wanted = target.registry ~= nil
  if not wanted and (not machine or machine.os ~= "linux") then return nil end
  local base, reason
  if not entry then
    reason = ("%s has no program to start, or several and none is called %s"):format(target.id, work.plan.name)
  elseif not (buildq.queue.has_program "umoci" and buildq.queue.has_program "skopeo") then
    reason = "umoci and skopeo are not here"
  else
    base, reason = image.base(work, target, entry)
  end
  if reason and wanted then work.build:fail("no image can be made: " .. reason, { retry = false }) end
  if reason then
    work.build:log("no image of " .. target.id .. ": " .. reason)
    return nil
  end
  -- Targets that share their files share the image: provider and tier are no part of it.
  local key = target.architecture .. " " .. work.outputs[target.id]
  work.shared_images[key] = work.shared_images[key] or image.make(work, target, entry, base)
  return work.shared_images[key]
end

local function image_reference(work, target, made)
  if not made then return nil end
  local place = target.registry
  if place then return ("%s/%s@%s"):format(place.url, place.repository, made.digest) end
  return ("%s:%s"):format(require("manifest.build").image_name(work.plan.name), work.plan.version:gsub("[^%w._-]", "_"))
end

local function package_target(work, target)
  local name = ("%s-%s"):format(file_name(work.plan.name), target.id)
  local file = pack(work, target, name)
  add_text(work, name .. ".cdx.json", "sbom", sbom.make(work, target))
  local entry = entry_point.find(work, target)
  local made = make_image(work, target, entry)
  work.images[target.id] = made
  local texts = deploy.make(work, target, { image = image_reference(work, target, made), digest = made and made.digest,
    archive = file, entry = entry })
  if next(texts) then
    local dir = "deploy/" .. target.id
    fs.mkdir(dir .. "/deploy")
    for path, text in pairs(texts) do fs.write(dir .. "/deploy/" .. path, text) end
    local packed = archive.pack { dir = dir, to = ("%s/%s-deploy.tar.zst"):format(PACKAGE, name), prefix = name }
    add(work, name .. "-deploy.tar.zst", "deploy", packed.sha256)
  end
  if made and not target.registry and not made.packed then
    made.packed = true -- targets that share an image share its archive
    local packed = archive.pack { dir = made.layout, to = ("%s/%s.oci.tar"):format(PACKAGE, name) }
    add(work, name .. ".oci.tar", "image", packed.sha256)
  end
end

--- Packs everything and makes the images.
---@param work Work
function release.package(work)
  work.files, work.images, work.shared_images, work.commits = {}, {}, {}, {}
  for _, from in ipairs(work.sources) do work.commits[from.name] = from.commit end
  work.hash = hash.of(work.plan, work.commits, buildq.sha256)
  fs.mkdir(PACKAGE)
  for _, target in ipairs(work.plan.targets) do package_target(work, target) end
  add_text(work, "manifest.json", "manifest", json.encode(work.build.manifest, { indent = 2 }) .. "\n")
  local sums = {}
  for index, file in ipairs(work.files) do sums[index] = ("%s  %s\n"):format(file.sha256, file.name) end
  fs.write(PACKAGE .. "/SHA256SUMS", table.concat(sums))
end

-- One image, or an index of those for several platforms.
local function subject(work, push, indexes)
  if #push.targets == 1 then return work.images[push.targets[1].id] end
  local images, ids = {}, {}
  for index, target in ipairs(push.targets) do
    images[index], ids[index] = work.images[target.id], target.id
  end
  local key = table.concat(ids, " ")
  if not indexes[key] then indexes[key] = image.index(work, images, "index-" .. buildq.sha256(key):sub(1, 12)) end
  return indexes[key]
end

-- A tag that names another image stays where it is, unless the manifest lists it as one that moves.
local function check_tags(work, pushes)
  for _, push in ipairs(pushes) do
    local there = not push.movable and registry.digest(work, push.place, push.tag)
    if there and there ~= push.image.digest then
      work.build:fail(("the tag %s of %s/%s names another image already (%s, this one is %s) and is not moved: give "
        .. "another version, or list it in the target's tags"):format(push.tag, push.place.url, push.place.repository,
        there, push.image.digest), { retry = false })
    end
  end
end

local function push_images(work)
  local pushes, indexes, url = tags.all(work.plan, work.hash, work.source.commit), {}, nil
  for _, push in ipairs(pushes) do push.image = subject(work, push, indexes) end
  check_tags(work, pushes)
  local pushed = json.array {}
  for _, push in ipairs(pushes) do
    registry.push(work, push.place, push.image, push.tag, image.name)
    local reference = ("%s/%s@%s"):format(push.place.url, push.place.repository, push.image.digest)
    work.build:log(("pushed %s as %s"):format(reference, push.tag))
    pushed[#pushed + 1] = { reference = reference, tag = push.tag, index = push.image.members ~= nil,
      target = not push.image.members and push.targets[1].id or nil }
    if push.image.members then url = url or { reference = reference } end
  end
  if url then return pushed, url.reference end
  for _, target in ipairs(work.plan.targets) do
    local made = work.images[target.id]
    if target.registry and made then return pushed, image_reference(work, target, made) end
  end
  return pushed, nil
end

local function provenance(work, pushed)
  local sources, targets = json.array {}, json.array {}
  for index, from in ipairs(work.sources) do
    sources[index] = { name = from.name, repository = from.repository, ref = from.ref, path = from.path,
      commit = from.commit }
  end
  for index, target in ipairs(work.plan.targets) do
    local made, published = work.images[target.id], work.published and work.published[target.id]
    targets[index] = { id = target.id, architecture = target.architecture, provider = target.provider,
      nativeAot = published and target.optimizations.nativeAot or nil, seconds = published and published.seconds,
      image = made and made.digest }
  end
  local first = work.source
  return {
    source = { repository = first.repository, ref = first.ref, path = first.path, commit = first.commit },
    sources = sources,
    system = work.plan.system,
    manifestHash = work.hash,
    targets = targets,
    images = pushed,
    commands = json.array(work.commands),
    tools = work.versions,
    environment = { SOURCE_DATE_EPOCH = work.env.SOURCE_DATE_EPOCH },
  }
end

--- Pushes the images and registers the files; the server shows them all at once when the build has succeeded.
---@param work Work
function release.publish(work)
  local pushed, url = push_images(work)
  for _, file in ipairs(work.files) do work.build:artifact(PACKAGE .. "/" .. file.name, { kind = file.kind }) end
  work.build:artifact(PACKAGE .. "/SHA256SUMS", { kind = "checksums" })
  work.build:result { imageUrl = url, provenance = provenance(work, pushed) }
end

return release
