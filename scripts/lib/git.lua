-- git for builds: a bare mirror per repository, shared by the builds of a server, and checkouts of single commits.
--
-- The mirror lies below StateDirectory/shared/git. git alone may write there, under the mirror's lock; what a build
-- checks out is a copy. Every build fetches with its own credential, so that a mirror never gives away what its asker
-- may not see.

local buildq = require "buildq"
local fs = buildq.fs
local private = require "private"
local rules = require "manifest.rules"

local git = {}

-- git names in its question who wants to know: after a redirect that is another host, which gets nothing.
local ASK <const> = [[#!/bin/sh
case $1 in
"Username for 'https://$BUILDQ_HOST': ") cat "$BUILDQ_PRIVATE/username" ;;
"Password for 'https://"*"@$BUILDQ_HOST': ") cat "$BUILDQ_PRIVATE/password" ;;
*) echo "no credential for this: $1" >&2; exit 1 ;;
esac
]]
local LOCK_SECONDS <const> = "1800"
local MAX_SUBMODULES <const> = 100
local MAX_DEPTH <const> = 5

-- Nobody is there to type a password, no setting of the machine takes part, no transport runs a program.
local function environment(build, private_directory, host)
  local env = {
    GIT_TERMINAL_PROMPT = "0", GIT_CONFIG_NOSYSTEM = "1", GIT_ALLOW_PROTOCOL = "https:http:ssh:git:file",
    GIT_SSH_COMMAND = "ssh -o BatchMode=yes", GIT_HTTP_LOW_SPEED_LIMIT = "1000", GIT_HTTP_LOW_SPEED_TIME = "120",
  }
  if build.config.TrustedCertificates ~= "" then
    env.GIT_SSL_CAINFO, env.GIT_SSL_CAPATH = build.config.TrustedCertificates, "/etc/ssl/certs"
  end
  if private_directory then
    env.BUILDQ_PRIVATE, env.GIT_ASKPASS = private_directory, private_directory .. "/askpass"
    env.BUILDQ_HOST = host
  end
  return env
end

--- Runs git in a directory of the workspace.
---@param build Build
---@param arguments string[]
---@param options? {cwd?: string, capture?: boolean, check?: boolean, mounts?: table, env?: table, lock?: string}
---@return ExecResult
function git.run(build, arguments, options)
  options = options or {}
  local argv = { "git", "-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main" }
  if options.lock then argv = { "flock", "--exclusive", "--wait", LOCK_SECONDS, options.lock, table.unpack(argv) } end
  table.move(arguments, 1, #arguments, #argv + 1, argv)
  return build:exec {
    argv = argv, cwd = options.cwd, env = options.env or environment(build), capture = options.capture,
    check = options.check, mounts = options.mounts,
  }
end

-- Runs `fn` with the credential's files in the workspace, for the time of one command.
local function with_credential(build, name, url, fn)
  if not name then return fn(environment(build)) end
  local host = rules.host(url) or ""
  local credential = build:credential(name, host:lower())
  return private.with(build, {
    askpass = { text = ASK, mode = 448 }, -- 0700
    username = { text = credential.username .. "\n", mode = 384 }, -- 0600
    password = { text = credential.value .. "\n", mode = 384 },
  }, function(directory) return fn(environment(build, directory, host)) end)
end

-- What a fetch says when trying again may help: the network, not the request.
local function is_passing(lines)
  local text = table.concat(lines, "\n"):lower()
  for _, words in ipairs { "authentication failed", "repository not found", "could not read username", " 401", " 403",
    "error: 404", "not found", "permission denied", "certificate" } do
    if text:find(words, 1, true) then return false end
  end
  return true
end

local function mounts_of(build, path, how)
  local mounts = { [path] = how }
  if build.config.TrustedCertificates ~= "" then mounts[build.config.TrustedCertificates] = "read" end
  return mounts
end

--- Brings the mirror of a repository up to date.
---@param build Build
---@param entry {url: string, credentials?: string}
---@return string path of the mirror
function git.mirror(build, entry)
  local path = build:shared("git/" .. buildq.sha256(entry.url):sub(1, 32))
  local lock, mounts = path .. "/buildq-lock", mounts_of(build, path, "write")
  -- A git that was killed leaves lock files that would stop every later one, and halves of packs that nobody would ever
  -- remove; under the lock nobody else is at work.
  -- A commit by its name alone is what a checkout asks for.
  build:exec { argv = { "flock", "--exclusive", "--wait", LOCK_SECONDS, lock, "sh", "-ec", [[
    cd "$1"
    [ -f HEAD ] || git init --quiet --bare .
    git config uploadpack.allowAnySHA1InWant true
    git config gc.autoDetach false
    find . -type f '(' -name '*.lock' -o -path './objects/*/tmp_*' ')' -delete
  ]], "sh", path }, mounts = mounts, env = environment(build) }
  local result = with_credential(build, entry.credentials, entry.url, function(env)
    local arguments = { "-C", path, "fetch", "--quiet", "--prune", "--no-write-fetch-head", "--end-of-options",
      entry.url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*" }
    if not entry.ref then arguments[#arguments + 1] = "+HEAD:refs/buildq/head" end
    return git.run(build, arguments, { env = env, mounts = mounts, lock = lock, check = false })
  end)
  if result.code ~= 0 then
    build:fail(("the repository %s can't be fetched: %s"):format(entry.url,
      table.concat(result.lines, " | ", math.max(1, #result.lines - 4))), { retry = is_passing(result.lines) })
  end
  return path
end

-- The commit that a reference of a mirror names, or nil.
local function resolve(build, path, ref)
  local names = ref and { "refs/heads/" .. ref, "refs/tags/" .. ref, ref } or { "refs/buildq/head" }
  for _, name in ipairs(names) do
    local found = git.run(build,
      { "-C", path, "rev-parse", "--quiet", "--verify", "--end-of-options", name .. "^{commit}" },
      { check = false, capture = true, mounts = { [path] = "read" } })
    local commit = found.code == 0 and found.output:match("%x+")
    if commit then return commit end
  end
  return nil
end

local checkout_commit

local function submodules_of(build, dir)
  if not fs.exists(dir .. "/.gitmodules") then return {} end
  local listed = git.run(build,
    { "config", "--file", ".gitmodules", "--null", "--get-regexp", "^submodule\\..*\\.(path|url)$" },
    { cwd = dir, capture = true, check = false })
  local by_name = {}
  for name, key, value in (listed.output or ""):gmatch("submodule%.([^\n]-)%.(%l+)\n([^\0]*)\0") do
    by_name[name] = by_name[name] or {}
    by_name[name][key] = value
  end
  local list = {}
  for _, entry in pairs(by_name) do
    if entry.path and entry.url then list[#list + 1] = entry end
  end
  table.sort(list, function(a, b) return a.path < b.path end)
  return list
end

-- A submodule's URL may be relative to that of the repository it is in.
local function absolute_url(url, base)
  if not url:find("^%.%.?/") then return url end
  local place = base:gsub("/+$", "")
  while true do
    local rest = url:match("^%.%./(.*)$")
    if rest then
      place, url = place:gsub("/[^/]*$", ""), rest
    elseif url:find("^%./") then
      url = url:sub(3)
    else
      return place .. "/" .. url
    end
  end
end

local function checkout_submodules(build, entry, dir, depth, count)
  for _, module in ipairs(submodules_of(build, dir)) do
    count.n = count.n + 1
    if depth >= MAX_DEPTH or count.n > MAX_SUBMODULES then
      build:fail(("%s has more than %d submodules, or more than %d levels of them"):format(entry.url, MAX_SUBMODULES,
        MAX_DEPTH), { retry = false })
    end
    local url = absolute_url(module.url, entry.url)
    local message = not rules.stays_inside(module.path) and "its path leads out of the repository"
      or rules.url(url, false)
    if message then
      build:fail(("the submodule %s of %s: %s %s"):format(module.path, entry.url, url, message), { retry = false })
    end
    local commit = git.run(build, { "rev-parse", "--verify", "--end-of-options", "HEAD:" .. module.path },
      { cwd = dir, capture = true }).output:match("%x+")
    -- Only the repository's own host may see its credential.
    local same = (rules.host(url) or ""):lower() == (rules.host(entry.url) or ""):lower()
    local inner = { url = url, ref = commit, credentials = same and entry.credentials or nil }
    local path = git.mirror(build, inner)
    checkout_commit(build, inner, path, commit, dir .. "/" .. module.path, depth + 1, count)
  end
end

function checkout_commit(build, entry, path, commit, dir, depth, count)
  git.run(build, { "init", "--quiet", dir })
  local fetched = git.run(build, { "fetch", "--quiet", "--no-tags", "--depth=1", "file://" .. path, commit },
    { cwd = dir, mounts = { [path] = "read" }, check = false })
  if fetched.code ~= 0 then
    build:fail(("the commit %s is not in %s"):format(commit, entry.url), { retry = false })
  end
  git.run(build, { "checkout", "--quiet", "--detach", commit }, { cwd = dir })
  checkout_submodules(build, entry, dir, depth, count)
end

--- Checks out a branch, a tag or a commit, and its submodules. Ends the build when it can't: for good when there is no
--- such reference, to be tried again when it was the network.
---@param build Build
---@param entry {url: string, ref?: string, credentials?: string}
---@param dir string in the workspace
---@return string commit
function git.checkout(build, entry, dir)
  local path = git.mirror(build, entry)
  local commit = resolve(build, path, entry.ref)
  if not commit then
    build:fail(("the reference %s is not in %s; check the ref in the manifest"):format(entry.ref or "HEAD", entry.url),
      { retry = false })
  end
  checkout_commit(build, entry, path, commit, dir, 0, { n = 0 })
  return commit
end

return git
