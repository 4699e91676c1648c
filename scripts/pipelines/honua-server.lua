-- Builds Honua Server (or any source that a manifest names) and packages it: five steps at the percentages that its
-- users know.

local buildq = require "buildq"
local manifest = require "manifest"
local product = require "product"
local source = require "source"
local toolchain = require "toolchain"

local archive, fs, json = buildq.archive, buildq.fs, buildq.json

local OUTPUT <const> = "output"
local PACKAGE <const> = "package"
local MARK <const> = ".build-began" -- what is newer was made by the build
local MOST_FILES <const> = 5000 -- of a build without an install rule

-- The manifest was checked before the row was written; a row changed by hand was not.
local function read_plan(build)
  local normal, faults, warnings = manifest.check(build.manifest, { trusted = build.manifest_trusted })
  if not normal then
    build:fail(("the manifest has a fault: %s %s"):format(faults[1].path, faults[1].message), { retry = false })
  end
  for _, warning in ipairs(warnings) do build:log(("warning: %s %s"):format(warning.path, warning.message)) end
  local wanted, plan = normal.source or product.source, normal.build or product.build
  if not wanted or not plan then
    build:fail("nothing to build: the manifest names no source or no build, and lib/product.lua gives no default",
      { retry = false })
  end
  return wanted, { system = plan.system, targets = plan.targets or {}, commands = plan.commands or {} }
end

local function file_name(text)
  local name = text:gsub("[^%w._+-]+", "-"):gsub("^[-.]+", ""):gsub("[-.]+$", "")
  return name ~= "" and name:sub(1, 100) or "build"
end

local function run_commands(work)
  for _, command in ipairs(work.plan.commands) do
    toolchain.run(work, type(command) == "table" and command or { "/bin/sh", "-e", "-c", command })
  end
end

-- Without an install rule: every file that the build has made, but for what compilers leave on their way.
local function collect(work)
  local argv = {
    "find", ".", "-name", ".git", "-prune", "-o", "-type", "f", "-newer", work.build.workspace .. "/" .. MARK,
    "!", "-name", "*.o", "!", "-name", "*.d", "!", "-name", "CMake*", "!", "-path", "*/CMakeFiles/*",
    "!", "-name", "install_manifest.txt", "-print0",
  }
  local found = work.build:exec { argv = argv, cwd = work.source.dir, capture = true }
  local count = 0
  for path in found.output:gmatch("%./([^\0]+)") do
    count = count + 1
    if count > MOST_FILES then
      work.build:fail(("the build made over %d files; give it an install rule that picks those to ship")
        :format(MOST_FILES), { retry = false })
    end
    fs.copy(work.source.dir .. "/" .. path, work.output .. "/" .. path)
  end
end

local function gather(work)
  local system = toolchain.systems[work.plan.system]
  if #fs.list(OUTPUT) == 0 and system.install then system.install(work) end
  if #fs.list(OUTPUT) == 0 then collect(work) end
  if #fs.list(OUTPUT) == 0 then
    work.build:fail("the build left nothing to package: no file in OUTPUT, no install rule and no new file",
      { retry = false })
  end
end

local function package(build)
  local name = file_name(("%s-%s"):format(build.manifest.name or build.configuration, build.architecture))
  local packed = archive.pack { dir = OUTPUT, to = ("%s/%s.tar.zst"):format(PACKAGE, name), prefix = name }
  local form = json.encode(build.manifest, { indent = 2 }) .. "\n"
  fs.write(PACKAGE .. "/manifest.json", form)
  fs.write(PACKAGE .. "/SHA256SUMS", ("%s  %s.tar.zst\n%s  manifest.json\n"):format(packed.sha256, name,
    buildq.sha256(form)))
  build:log(("%s.tar.zst: %d files, %d bytes"):format(name, packed.files, packed.size))
  return name .. ".tar.zst"
end

local function provenance(work, tools)
  local from = work.source
  return {
    source = { repository = from.repository, ref = from.ref, path = from.path, commit = from.commit },
    system = work.plan.system,
    commands = json.array(work.commands),
    tools = tools,
    environment = { SOURCE_DATE_EPOCH = work.env.SOURCE_DATE_EPOCH },
  }
end

local function run(build)
  local work, tools, archive_name = nil, {}, nil

  build:step("Cloning repositories", { at = 10 }, function()
    local wanted, plan = read_plan(build)
    work = { build = build, plan = plan, commands = {}, output = OUTPUT, source = source.checkout(build, wanted) }
    work.env = {
      OUTPUT = build.workspace .. "/" .. OUTPUT,
      SOURCE_DATE_EPOCH = tostring(work.source.time),
      BUILD_ARCHITECTURE = build.architecture,
      BUILD_CLOUD = build.cloud,
      BUILD_TIER = build.tier,
    }
  end)

  build:step("Generating solution", { at = 30 }, function()
    local system = toolchain.systems[work.plan.system]
    for _, tool in ipairs(system.tools) do tools[tool] = toolchain.version(build, tool) end
    if work.source.commit then tools.git = toolchain.version(build, "git") end
    work.jobs = toolchain.jobs(build)
    fs.mkdir(OUTPUT)
    fs.mkdir(PACKAGE)
    system.generate(work)
    fs.write(MARK, "")
  end)

  build:step("Building for target platforms", { at = 50 }, function()
    toolchain.systems[work.plan.system].compile(work)
    run_commands(work)
  end)

  build:step("Packaging artifacts", { at = 80 }, function()
    gather(work)
    archive_name = package(build)
  end)

  build:step("Publishing to registry", { at = 95 }, function()
    -- Registered here; the server shows them all at once when the build has succeeded.
    build:artifact(PACKAGE .. "/" .. archive_name, { kind = "archive" })
    build:artifact(PACKAGE .. "/SHA256SUMS", { kind = "checksums" })
    build:artifact(PACKAGE .. "/manifest.json", { kind = "manifest" })
    build:result { provenance = provenance(work, tools) }
  end)
end

local function self_check()
  for name in pairs(manifest.systems) do
    assert(toolchain.systems[name], "lib/toolchain.lua has no entry for the build system " .. name)
  end
  if product.build then
    assert(toolchain.systems[product.build.system], "lib/product.lua: build.system is make, cmake or command")
    assert(product.source, "lib/product.lua names a build but no source")
  end
end

return { run = run, check = self_check }
