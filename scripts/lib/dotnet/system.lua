-- The build system dotnet of the pipeline honua-server (see toolchain.lua).

local environment = require "dotnet.environment"
local projects = require "dotnet.projects"
local publish = require "dotnet.publish"

local system = { tools = {} }

-- The SDK's version is asked with the environment of the commands, so the tool is no entry of `tools`.
local function version(work)
  local result = work.build:exec { argv = { "dotnet", "--version" }, cwd = "source", env = work.dotnet.env,
    mounts = work.dotnet.mounts, capture = true, check = false }
  if result.code ~= 0 then
    work.build:fail("the .NET SDK is not here, or not the one that global.json asks for: " ..
      table.concat(result.lines, " | ") .. "; install it, or name its directory in DotnetDirectory", { retry = false })
  end
  return result.output:match("^%s*([^\n]*)") or ""
end

local function run(work, argv)
  work.commands[#work.commands + 1] = table.concat(argv, " ")
  work.build:exec { argv = argv, cwd = "source", env = work.dotnet.env, mounts = work.dotnet.mounts }
end

function system.generate(work)
  work.dotnet = environment.new(work.build, work.plan.cache)
  work.versions.dotnet = version(work)
  local dirs, hosts = {}, {}
  for _, source in ipairs(work.sources) do dirs[source.name] = source.dir end
  local kept = projects.keep(work.build, work.plan, dirs, "source")
  local solution = work.build.workspace .. "/solution"
  run(work, { "dotnet", "new", "sln", "--name", "product", "--output", solution, "--format", "sln" })
  local argv = { "dotnet", "sln", solution .. "/product.sln", "add" }
  for _, project in ipairs(kept) do
    argv[#argv + 1] = work.build.workspace .. "/" .. project.path
    if project.host then hosts[#hosts + 1] = project end
    work.build:log(("%s%s"):format(project.path, project.host and " (a program)" or ""))
  end
  run(work, argv)
  work.hosts = hosts
end

function system.compile(work)
  work.published = publish.run(work)
  for id, published in pairs(work.published) do work.outputs[id] = published.dir end
end

return system
