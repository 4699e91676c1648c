-- Which program of a target's files is the one to start.

local elf = require "package.elf"
local fs = require("buildq").fs

local entry = {}

---@class EntryPoint
---@field argv string[] as in the image, below /app
---@field file string relative to the target's directory
---@field elf? ElfInfo of a native program

local function executable(build, path)
  local stat = fs.stat(path)
  if not stat or stat.type ~= "file" then return nil end
  local info = elf.read(build, path)
  return info and info.executable and info or nil
end

local function below_app(file) return "/app/" .. file end

-- A published project: its program, or its assembly for the `dotnet` of the base image.
local function of_dotnet(work, dir)
  local host = work.hosts[1]
  local folder = #work.hosts > 1 and host.name .. "/" or ""
  local names = { host.name }
  for _, path in ipairs(fs.glob(dir .. "/" .. folder .. "*.runtimeconfig.json")) do
    names[#names + 1] = path:match("([^/]+)%.runtimeconfig%.json$")
  end
  for _, name in ipairs(names) do
    local file = folder .. name
    local info = executable(work.build, dir .. "/" .. file)
    local config = fs.exists(dir .. "/" .. file .. ".runtimeconfig.json")
    local contained = not config or fs.exists(dir .. "/" .. folder .. "libcoreclr.so")
    if info and contained then return { argv = { below_app(file) }, file = file, elf = info } end
    if config and fs.exists(dir .. "/" .. file .. ".dll") then
      return { argv = { "dotnet", below_app(file .. ".dll") }, file = file .. ".dll" }
    end
  end
  return nil
end

-- Anything else: the only program there is, or the one that is called as the product.
local function of_files(work, dir)
  local found = work.build:exec {
    argv = { "find", ".", "-type", "f", "-perm", "-u+x", "!", "-name", "*.so*", "-print0" },
    cwd = dir, capture = true, quiet = true }
  local only, count
  for file in (found.output or ""):gmatch("%./([^\0]+)") do
    local info = executable(work.build, dir .. "/" .. file)
    local candidate = info and { argv = { below_app(file) }, file = file, elf = info }
    if candidate and file:match("[^/]+$") == work.plan.name then return candidate end
    if candidate then only, count = candidate, (count or 0) + 1 end
  end
  return count == 1 and only or nil
end

--- nil: there is none, or several and none of them is called as the product.
---@param work Work
---@param target PlanTarget
---@return EntryPoint?
function entry.find(work, target)
  local dir = work.outputs[target.id]
  if work.plan.system == "dotnet" then return of_dotnet(work, dir) end
  return of_files(work, dir)
end

return entry
