-- Brings a build's source into the workspace: a git repository, a git bundle, or a directory below ManifestDirectory.

local fs = require("buildq").fs
local manifest = require "manifest"

local source = {}

local CHECKOUT <const> = "source"
local IMPORT <const> = "import"

-- Nobody is there to type a password, no setting of the machine takes part, no transport runs a program.
local GIT_ENV <const> = {
  GIT_TERMINAL_PROMPT = "0",
  GIT_CONFIG_NOSYSTEM = "1",
  GIT_ALLOW_PROTOCOL = "https:http:ssh:git:file",
  GIT_SSH_COMMAND = "ssh -o BatchMode=yes",
}

local function git(build, arguments, options)
  local argv = { "git", "-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main" }
  table.move(arguments, 1, #arguments, #argv + 1, argv)
  options = options or {}
  return build:exec {
    argv = argv, cwd = options.cwd or CHECKOUT, env = GIT_ENV, capture = options.capture, check = options.check,
  }
end

-- One commit is enough to build; only a server or a bundle that can't hand out a single one is asked for everything.
local function fetch(build, url, ref, shallow)
  git(build, { "init", "--quiet", CHECKOUT }, { cwd = "." })
  git(build, { "remote", "add", "--", "origin", url })
  local arguments = { "fetch", "--quiet", "--no-tags" }
  if shallow then arguments[#arguments + 1] = "--depth=1" end
  table.move({ "origin", ref or "HEAD" }, 1, 2, #arguments + 1, arguments)
  local one = git(build, arguments, { check = false })
  if one.code == 0 then
    git(build, { "checkout", "--quiet", "--detach", "FETCH_HEAD" })
    return
  end
  build:log("The reference alone can't be fetched; fetching all branches and tags.")
  git(build, { "fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*" })
  for _, name in ipairs { "refs/remotes/origin/" .. (ref or "HEAD"), ref or "HEAD" } do
    local found = git(build, { "rev-parse", "--quiet", "--verify", name .. "^{commit}" },
      { check = false, capture = true })
    if found.code == 0 then
      git(build, { "checkout", "--quiet", "--detach", (found.output:gsub("%s+$", "")) })
      return
    end
  end
  build:fail(("the reference %s is not in %s; check source.ref in the manifest"):format(ref or "HEAD", url),
    { retry = false })
end

local function read_git(build, cwd)
  local function line(...)
    return (git(build, { ... }, { cwd = cwd, capture = true }).output:gsub("%s+$", ""))
  end
  return line("rev-parse", "HEAD"), math.tointeger(tonumber(line("log", "-1", "--format=%ct")))
end

-- Whether what was imported is a repository with a work tree or a bare one.
local function is_repository()
  return fs.exists(IMPORT .. "/.git") or (fs.exists(IMPORT .. "/HEAD") and fs.exists(IMPORT .. "/objects"))
end

---@class CheckedOut
---@field dir string where to build, relative to the workspace
---@field commit? string the commit's name when it came from git
---@field time integer seconds since 1970: the commit's time, or 0: what SOURCE_DATE_EPOCH is for this source
---@field repository? string
---@field ref? string
---@field path? string

--- Checks out what a manifest's source names; the manifest is checked already, and so allowed to name it. Ends the
--- build when it can't be what was meant.
---@param build Build
---@param wanted {repository?: string, ref?: string, path?: string}
---@return CheckedOut
function source.checkout(build, wanted)
  local result = { dir = CHECKOUT, time = 0, repository = wanted.repository, ref = wanted.ref, path = wanted.path }
  if wanted.repository and not manifest.is_local(wanted.repository) then
    fetch(build, wanted.repository, wanted.ref, true)
  else
    local from = wanted.repository and manifest.local_path(wanted.repository) or wanted.path
    local kind = build:import(from, IMPORT)
    if kind == "file" or (wanted.repository and is_repository()) then -- a file can only be a bundle: git tells
      fetch(build, build.workspace .. "/" .. IMPORT, wanted.ref, false)
      fs.remove(IMPORT)
    elseif wanted.repository then
      build:fail(("%s is neither a git repository nor a git bundle"):format(from), { retry = false })
    else
      fs.move(IMPORT, CHECKOUT) -- a path alone is built as it lies there, committed or not
    end
  end
  local repository = fs.stat(CHECKOUT .. "/.git")
  if repository and repository.type == "directory" then
    result.commit, result.time = read_git(build, CHECKOUT)
  end
  if wanted.repository and wanted.path then
    if not manifest.stays_inside(wanted.path) then
      build:fail(("source.path %s leads out of the repository"):format(wanted.path), { retry = false })
    end
    result.dir = CHECKOUT .. "/" .. wanted.path
    local stat = fs.stat(result.dir)
    if not stat or stat.type ~= "directory" then
      build:fail(("the repository has no directory %s; check source.path in the manifest"):format(wanted.path),
        { retry = false })
    end
  end
  return result
end

return source
