-- The projects of a checkout: which there are, which are kept, which are programs.

local fs = require("buildq").fs

local projects = {}

local EXTENSIONS <const> = { "csproj", "fsproj", "vbproj" }
local MAX_SHOWN <const> = 20

---@class Project
---@field path string relative to the workspace
---@field name string of its file, without the extension
---@field host boolean it is a program that can be published

local function is_built(path) return path:find("/bin/", 1, true) or path:find("/obj/", 1, true) end

-- All project files of a checkout, or those that the manifest names.
local function find(build, entry, dir)
  local paths = {}
  for _, path in ipairs(entry.projects) do
    local whole = dir .. "/" .. path
    if not fs.exists(whole) then
      build:fail(("the repository %s has no project %s; check its projects in the manifest"):format(entry.name, path),
        { retry = false })
    end
    paths[#paths + 1] = whole
  end
  if #paths > 0 then return paths end
  for _, extension in ipairs(EXTENSIONS) do
    for _, path in ipairs(fs.glob(dir .. "/**/*." .. extension)) do
      if not is_built(path) then paths[#paths + 1] = path end
    end
  end
  return paths
end

-- A program is what the web SDK builds, or what says so. Tests are no product.
local function is_host(text)
  if text:find("<IsTestProject>%s*[Tt]rue") or text:find("Microsoft.NET.Test.Sdk", 1, true) then return false end
  local kind = text:match("<OutputType>%s*(%a+)%s*</OutputType>")
  if kind then return kind:lower() == "exe" or kind:lower() == "winexe" end
  return text:find('Sdk="Microsoft%.NET%.Sdk%.Web"') ~= nil or text:find('Sdk="Microsoft%.NET%.Sdk%.Worker"') ~= nil
end

local function is_selected(path, selects)
  local lower = path:lower()
  for _, text in ipairs(selects) do
    if lower:find(text, 1, true) then return true end
  end
  return false
end

local function listed(paths, base)
  local names = {}
  for index = 1, math.min(#paths, MAX_SHOWN) do names[index] = paths[index]:sub(#base + 2) end
  return table.concat(names, ", ") .. (#paths > MAX_SHOWN and (" and %d more"):format(#paths - MAX_SHOWN) or "")
end

--- The projects that the modules keep; ends the build when there is none, or no program among them.
---@param build Build
---@param plan Plan
---@param dirs table<string, string> where each repository is, by its name
---@param base string what paths are shown relative to
---@return Project[]
function projects.keep(build, plan, dirs, base)
  local all, kept = {}, {}
  for _, entry in ipairs(plan.repositories) do
    table.move(find(build, entry, dirs[entry.name]), 1, 1000000, #all + 1, all)
  end
  table.sort(all)
  local hosts = 0
  for _, path in ipairs(all) do
    if is_selected(path:sub(#base + 1), plan.selects) then
      local host = is_host(fs.read(path))
      hosts = hosts + (host and 1 or 0)
      kept[#kept + 1] = { path = path, name = path:match("([^/]+)%.%a+$"), host = host }
    end
  end
  if #kept == 0 then
    build:fail(("no project is kept by the modules %s; there are: %s"):format(table.concat(plan.selects, ", "),
      #all > 0 and listed(all, base) or "none"), { retry = false })
  elseif hosts == 0 then
    build:fail(("none of the kept projects is a program (OutputType Exe, or the web SDK); there are: %s"):format(
      listed(all, base)), { retry = false })
  end
  return kept
end

return projects
