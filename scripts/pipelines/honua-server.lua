-- Builds Honua Server (or any source that a manifest names), packages it and makes its images: five steps at the
-- percentages that its users know.

local buildq = require "buildq"
local deploy = require "package.deploy"
local gather = require "package.gather"
local manifest = require "manifest"
local product = require "product"
local release = require "package.release"
local source = require "source"
local toolchain = require "toolchain"

local fs = buildq.fs

local OUTPUT <const> = "output"
local MARK <const> = ".build-began" -- what is newer was made by the build

-- The manifest was checked before the row was written; a row changed by hand was not.
local function read_plan(build)
  local normal, faults, warnings = manifest.check(build.manifest, { trusted = build.manifest_trusted })
  if normal then faults = manifest.check_choice(normal, { tier = build.tier, architecture = build.architecture }) end
  if #faults > 0 then
    build:fail(("the manifest has a fault: %s %s"):format(faults[1].path, faults[1].message), { retry = false })
  end
  for _, warning in ipairs(warnings) do build:log(("warning: %s %s"):format(warning.path, warning.message)) end
  local plan = manifest.plan(normal,
    { tier = build.tier, architecture = build.architecture, cloudProvider = build.cloud },
    { machine = build.config.MachineArchitecture, has_program = buildq.queue.has_program })
  if not plan then
    build:fail("nothing to build: the manifest names no source or no build, and lib/product.lua gives no default",
      { retry = false })
  end
  plan.name = plan.name or build.configuration
  return plan
end

local function begin(build)
  local plan = read_plan(build)
  local sources = source.checkout(build, plan)
  local time = 0
  for _, from in ipairs(sources) do time = math.max(time, from.time) end
  local work = { build = build, plan = plan, sources = sources, source = sources[1], time = time, commands = {},
    versions = {}, output = OUTPUT, outputs = {}, since = MARK }
  work.env = {
    OUTPUT = build.workspace .. "/" .. OUTPUT,
    SOURCE_DATE_EPOCH = tostring(time),
    BUILD_ARCHITECTURE = build.architecture,
    BUILD_CLOUD = build.cloud,
    BUILD_TIER = build.tier,
  }
  return work
end

local function generate(work)
  local build, system = work.build, toolchain.systems[work.plan.system]
  for _, tool in ipairs(system.tools) do work.versions[tool] = toolchain.version(build, tool) end
  if work.source.commit then work.versions.git = toolchain.version(build, "git") end
  work.jobs = toolchain.jobs(build)
  if work.plan.system ~= "dotnet" then
    work.cross = toolchain.cross(build, work.plan.targets[1].architecture)
    for name, value in pairs(work.cross and toolchain.cross_variables(work.cross) or {}) do work.env[name] = value end
  end
  fs.mkdir(OUTPUT)
  system.generate(work)
  fs.write(MARK, "")
end

local function compile(work)
  toolchain.systems[work.plan.system].compile(work)
  for _, command in ipairs(work.plan.commands) do
    toolchain.run(work, type(command) == "table" and command or { "/bin/sh", "-e", "-c", command })
  end
end

local function run(build)
  local work
  build:step("Cloning repositories", { at = 10 }, function() work = begin(build) end)
  build:step("Generating solution", { at = 30 }, function() generate(work) end)
  build:step("Building for target platforms", { at = 50 }, function() compile(work) end)
  build:step("Packaging artifacts", { at = 80 }, function()
    gather.outputs(work)
    release.package(work)
  end)
  build:step("Publishing to registry", { at = 95 }, function() release.publish(work) end)
end

local function self_check()
  deploy.check()
  for name in pairs(manifest.systems) do
    assert(toolchain.systems[name], "lib/toolchain.lua has no entry for the build system " .. name)
  end
  if product.build then
    assert(toolchain.systems[product.build.system], "lib/product.lua: build.system is make, cmake, dotnet or command")
    assert(product.source, "lib/product.lua names a build but no source")
  end
end

return { run = run, check = self_check }
