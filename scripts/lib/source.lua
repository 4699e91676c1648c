-- Brings a build's sources into the workspace: git repositories, git bundles, directories below ManifestDirectory.

local fs = require("buildq").fs
local git = require "git"
local manifest = require "manifest"

local source = {}

local CHECKOUT <const> = "source"
local IMPORT <const> = "import"

-- A bundle, or a repository that was imported: everything is there, and only git knows what a reference means in it.
local function fetch_local(build, from, ref, dir)
  local function run(arguments, options)
    options = options or {}
    options.cwd = options.cwd or dir
    return git.run(build, arguments, options)
  end
  run({ "init", "--quiet", dir }, { cwd = "." })
  run({ "remote", "add", "--", "origin", build.workspace .. "/" .. from })
  if run({ "fetch", "--quiet", "--no-tags", "origin", ref or "HEAD" }, { check = false }).code == 0 then
    run { "checkout", "--quiet", "--detach", "FETCH_HEAD" }
    return
  end
  build:log("The reference alone can't be fetched; fetching all branches and tags.")
  run { "fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*" }
  for _, name in ipairs { "refs/remotes/origin/" .. (ref or "HEAD"), ref or "HEAD" } do
    local found = run({ "rev-parse", "--quiet", "--verify", name .. "^{commit}" }, { check = false, capture = true })
    if found.code == 0 then
      run { "checkout", "--quiet", "--detach", (found.output:gsub("%s+$", "")) }
      return
    end
  end
  build:fail(("the reference %s is not in what was imported; check source.ref in the manifest"):format(ref or "HEAD"),
    { retry = false })
end

local function read_git(build, cwd)
  local function line(...)
    return (git.run(build, { ... }, { cwd = cwd, capture = true }).output:gsub("%s+$", ""))
  end
  return line("rev-parse", "HEAD"), math.tointeger(tonumber(line("log", "-1", "--format=%ct")))
end

-- Whether what was imported is a repository with a work tree or a bare one.
local function is_repository()
  return fs.exists(IMPORT .. "/.git") or (fs.exists(IMPORT .. "/HEAD") and fs.exists(IMPORT .. "/objects"))
end

local function import(build, wanted, dir)
  local from = wanted.url and manifest.local_path(wanted.url) or wanted.path
  local kind = build:import(from, IMPORT)
  if kind == "file" or (wanted.url and is_repository()) then -- a file can only be a bundle: git tells
    fetch_local(build, IMPORT, wanted.ref, dir)
    fs.remove(IMPORT)
  elseif wanted.url then
    build:fail(("%s is neither a git repository nor a git bundle"):format(from), { retry = false })
  else
    fs.move(IMPORT, dir) -- a path alone is built as it lies there, committed or not
  end
end

---@class CheckedOut
---@field name string the repository's in the plan
---@field dir string where to build, relative to the workspace
---@field commit? string the commit's name when it came from git
---@field time integer seconds since 1970: the commit's time, or 0: what SOURCE_DATE_EPOCH is for this source
---@field repository? string
---@field ref? string
---@field path? string

-- Ends the build when it can't be what was meant.
local function checkout(build, wanted, dir)
  local result = { name = wanted.name, dir = dir, time = 0, repository = wanted.url, ref = wanted.ref,
    path = wanted.path }
  if wanted.url and not manifest.is_local(wanted.url) then
    git.checkout(build, wanted, dir)
  else
    import(build, wanted, dir)
  end
  local repository = fs.stat(dir .. "/.git")
  if repository and repository.type == "directory" then
    result.commit, result.time = read_git(build, dir)
  end
  if wanted.url and wanted.path then
    if not manifest.stays_inside(wanted.path) then
      build:fail(("source.path %s leads out of the repository"):format(wanted.path), { retry = false })
    end
    result.dir = dir .. "/" .. wanted.path
    local stat = fs.stat(result.dir)
    if not stat or stat.type ~= "directory" then
      build:fail(("the repository has no directory %s; check source.path in the manifest"):format(wanted.path),
        { retry = false })
    end
  end
  return result
end

--- Checks out what a plan names, which is allowed to name it because the manifest was checked. One repository becomes
--- the directory `source`, several its directories.
---@param build Build
---@param plan Plan
---@return CheckedOut[]
function source.checkout(build, plan)
  local sources = {}
  for index, wanted in ipairs(plan.repositories) do
    local dir = #plan.repositories == 1 and CHECKOUT or CHECKOUT .. "/" .. wanted.name
    sources[index] = checkout(build, wanted, dir)
  end
  return sources
end

return source
