-- Build systems of the pipeline honua-server: one entry each, found by the name in the manifest's build.system.
--
-- Commands find a directory in OUTPUT: what lies there at the end is packaged. make and cmake fill it with their
-- install rule when the commands have left it empty.

local catalogue = require "catalogue"
local dotnet = require "dotnet.system"
local fs = require("buildq").fs

local toolchain = {}

---@class Work what a system works on
---@field build Build
---@field plan Plan
---@field sources CheckedOut[]
---@field source CheckedOut the first of them
---@field env table<string, string> for every command
---@field jobs integer
---@field commands string[] what was run, for the provenance
---@field versions table<string, string> of the tools, for the provenance
---@field output string the output directory, relative to the workspace
---@field outputs table<string, string> where the files of each target are, by its id
---@field cross? string the triplet of the cross compiler that is used

---@class System
---@field tools string[] their versions are recorded
---@field generate fun(work: Work)
---@field compile fun(work: Work)
---@field install fun(work: Work)? fills an empty output directory; nothing happens when there is no rule

--- Runs a command in the source directory (or `cwd`) and notes it.
---@param work Work
---@param argv string[]
---@param options? {cwd?: string, check?: boolean}
---@return ExecResult
function toolchain.run(work, argv, options)
  options = options or {}
  work.commands[#work.commands + 1] = table.concat(argv, " ")
  return work.build:exec {
    argv = argv, cwd = options.cwd or work.source.dir, env = work.env, check = options.check,
  }
end

---@type table<string, System>
toolchain.systems = { dotnet = dotnet }

--- The triplet of the compiler for an architecture that is not this machine's, when Debian's is here.
---@param build Build
---@param architecture string
---@return string?
function toolchain.cross(build, architecture)
  local here = catalogue.architectures[build.config.MachineArchitecture]
  local there = catalogue.architectures[architecture]
  if not here or not there or there.os ~= "linux" or there.libc ~= "gnu" or there.cpu == here.cpu then return nil end
  local found = require("buildq").queue.has_program(there.triplet .. "-gcc")
  if found then return there.triplet end
  build:log(("%s-gcc is not here: what is built is for %s unless the source's own rules say otherwise"):format(
    there.triplet, build.config.MachineArchitecture))
  return nil
end

--- The variables by which make and cmake find a cross compiler.
---@param triplet string
---@return table<string, string>
function toolchain.cross_variables(triplet)
  local env = { CROSS_COMPILE = triplet .. "-" }
  for name, tool in pairs { CC = "gcc", CXX = "g++", AR = "ar", LD = "ld", STRIP = "strip", OBJCOPY = "objcopy",
    RANLIB = "ranlib" } do
    env[name] = triplet .. "-" .. tool
  end
  return env
end

toolchain.systems.make = {
  tools = { "gcc", "make" },
  generate = function(work)
    work.build:log("make needs no generated solution.")
  end,
  compile = function(work)
    local argv = { "make", "-j" .. work.jobs }
    table.move(work.plan.make_targets, 1, #work.plan.make_targets, #argv + 1, argv)
    toolchain.run(work, argv)
  end,
  install = function(work)
    -- make ends with 2 and no words when it is asked about a target that has no rule.
    local destination = { "DESTDIR=" .. work.build.workspace .. "/" .. work.output, "PREFIX=/usr", "prefix=/usr" }
    local question = work.build:exec {
      argv = { "make", "--question", "--silent", "install", table.unpack(destination) },
      cwd = work.source.dir, env = work.env, check = false,
    }
    if question.code > 1 then return end
    toolchain.run(work, { "make", "install", table.unpack(destination) })
  end,
}

toolchain.systems.cmake = {
  tools = { "gcc", "cmake" },
  generate = function(work)
    local argv = { "cmake", "-S", ".", "-B", "build-cmake", "-DCMAKE_BUILD_TYPE=Release" }
    if work.cross then
      argv[#argv + 1] = "-DCMAKE_SYSTEM_NAME=Linux"
      argv[#argv + 1] = "-DCMAKE_SYSTEM_PROCESSOR=" .. work.cross:match("^[^-]+")
    end
    toolchain.run(work, argv)
  end,
  compile = function(work)
    local argv = { "cmake", "--build", "build-cmake", "--parallel", tostring(work.jobs) }
    if #work.plan.make_targets > 0 then
      argv[#argv + 1] = "--target"
      table.move(work.plan.make_targets, 1, #work.plan.make_targets, #argv + 1, argv)
    end
    toolchain.run(work, argv)
  end,
  install = function(work)
    if not fs.exists(work.source.dir .. "/build-cmake/cmake_install.cmake") then return end
    toolchain.run(work, { "cmake", "--install", "build-cmake", "--prefix",
      work.build.workspace .. "/" .. work.output .. "/usr" })
  end,
}

toolchain.systems.command = {
  tools = { "gcc" },
  generate = function(work)
    work.build:log("The manifest's own commands build it.")
  end,
  compile = function() end,
}

--- The first line that a tool says about its version, or "absent".
function toolchain.version(build, tool)
  local result = build:exec { argv = { tool, "--version" }, capture = true, check = false }
  if result.code ~= 0 then return "absent" end
  return result.output:match("^%s*([^\n]*)") or ""
end

--- How many jobs a compile may run side by side.
function toolchain.jobs(build)
  local result = build:exec { argv = { "nproc" }, capture = true, check = false }
  return math.tointeger(tonumber(result.output and result.output:match("%d+"))) or 1
end

return toolchain
