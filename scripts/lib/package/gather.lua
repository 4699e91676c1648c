-- Where the files of each target are, once they are built. make, cmake and commands fill one directory, OUTPUT; when
-- they have left it empty, the install rule does, and without one what the build has made is taken.

local fs = require("buildq").fs
local toolchain = require "toolchain"

local gather = {}

local MOST_FILES <const> = 5000 -- of a build without an install rule

-- Every file that the build has made, but for what compilers leave on their way.
local function collect(work)
  local argv = {
    "find", ".", "-name", ".git", "-prune", "-o", "-type", "f", "-newer", work.build.workspace .. "/" .. work.since,
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

--- Fills work.outputs; ends the build when there is nothing to package.
---@param work Work
function gather.outputs(work)
  if work.plan.system == "dotnet" then return end -- it has a directory for each target already
  local system = toolchain.systems[work.plan.system]
  if #fs.list(work.output) == 0 and system.install then system.install(work) end
  if #fs.list(work.output) == 0 then collect(work) end
  if #fs.list(work.output) == 0 then
    work.build:fail("the build left nothing to package: no file in OUTPUT, no install rule and no new file",
      { retry = false })
  end
  for _, target in ipairs(work.plan.targets) do work.outputs[target.id] = work.output end
end

return gather
