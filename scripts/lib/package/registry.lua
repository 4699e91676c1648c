-- skopeo: images between layouts and registries. What fails in passing is tried again by itself, without compiling
-- again.

local buildq = require "buildq"
local private = require "private"

local registry = {}

local TRIES <const> = 5
local FIRST_PAUSE <const> = 1 -- seconds, doubled each time

local function environment(build)
  local env = {}
  if build.config.TrustedCertificates ~= "" then
    env.SSL_CERT_FILE, env.SSL_CERT_DIR = build.config.TrustedCertificates, "/etc/ssl/certs"
  end
  return env
end

local function mounts(build, more)
  local all = {}
  for path, how in pairs(more or {}) do all[path] = how end
  if build.config.TrustedCertificates ~= "" then all[build.config.TrustedCertificates] = "read" end
  return all
end

local function skopeo(work, arguments, options)
  options = options or {}
  local argv = { "skopeo", "--insecure-policy", "--tmpdir", work.build.workspace .. "/.tmp" }
  table.move(arguments, 1, #arguments, #argv + 1, argv)
  return work.build:exec { argv = argv, env = environment(work.build), mounts = mounts(work.build, options.mounts),
    capture = options.capture, quiet = options.quiet, check = options.check }
end

--- Runs `fn` with the arguments that let skopeo log in at a host.
local function logged_in(work, host, credentials, fn)
  if not credentials then return fn {} end
  local credential = work.build:credential(credentials, host)
  local auth = private.base64(credential.username .. ":" .. credential.value)
  local text = buildq.json.encode { auths = { [host] = { auth = auth } } }
  return private.with(work.build, { ["auth.json"] = { text = text, mode = 384 } }, function(directory) -- 0600
    return fn { "--authfile", directory .. "/auth.json" }
  end)
end

-- Refused is refused; anything else a registry or the network says may be different the next time.
local function is_final(lines)
  local text = table.concat(lines, "\n"):lower()
  for _, words in ipairs { "unauthorized", "authentication required", "access to the resource is denied", "denied:",
    "forbidden", "x509", "name unknown", "manifest invalid", "name invalid" } do
    if text:find(words, 1, true) then return true end
  end
  return false
end

local function last(lines) return table.concat(lines, " | ", math.max(1, #lines - 2)) end

--- Copies an image on this machine, or from a registry that lets anybody read.
---@param work Work
---@param from string
---@param to string
---@param options? {mounts?: table<string, string>, arguments?: string[]}
function registry.copy(work, from, to, options)
  options = options or {}
  local arguments = options.arguments and { table.unpack(options.arguments) } or {}
  table.move({ "copy", "--quiet", from, to }, 1, 4, #arguments + 1, arguments)
  skopeo(work, arguments, { mounts = options.mounts })
end

---@class RegistryPlace
---@field url string
---@field repository string
---@field credentials? string

--- The digest that a tag names, or nil. Ends the build when the registry can't be asked.
---@param work Work
---@param place RegistryPlace
---@param tag string
function registry.digest(work, place, tag)
  local reference = ("docker://%s/%s:%s"):format(place.url, place.repository, tag)
  local pause = FIRST_PAUSE
  for try = 1, TRIES do
    local result = logged_in(work, place.url, place.credentials, function(login)
      return skopeo(work, { "inspect", "--raw", table.unpack(table.move({ reference }, 1, 1, #login + 1, login)) },
        { capture = true, quiet = true, check = false })
    end)
    if result.code == 0 then return "sha256:" .. buildq.sha256(result.output) end
    local text = table.concat(result.lines, "\n"):lower()
    if text:find("manifest unknown", 1, true) or text:find("name unknown", 1, true) then return nil end
    if is_final(result.lines) or try == TRIES then
      work.build:fail(("the registry %s can't be asked for %s: %s"):format(place.url, reference, last(result.lines)),
        { retry = not is_final(result.lines) })
    end
    work.build:log(("asking %s again in %d s"):format(place.url, pause))
    buildq.sleep(pause)
    pause = pause * 2
  end
end

--- Pushes an image, or an index with all its images, under one tag.
---@param work Work
---@param place RegistryPlace
---@param one Image
---@param tag string
---@param name string what it is called in its layout
function registry.push(work, place, one, tag, name)
  local from = ("oci:%s:%s"):format(one.layout, name)
  local to = ("docker://%s/%s:%s"):format(place.url, place.repository, tag)
  local pause = FIRST_PAUSE
  for try = 1, TRIES do
    local result = logged_in(work, place.url, place.credentials, function(login)
      local arguments = { "copy", "--quiet", "--preserve-digests" }
      if one.members then arguments[#arguments + 1] = "--all" end
      table.move(login, 1, #login, #arguments + 1, arguments)
      table.move({ from, to }, 1, 2, #arguments + 1, arguments)
      return skopeo(work, arguments, { check = false })
    end)
    if result.code == 0 then return end
    if is_final(result.lines) or try == TRIES then
      work.build:fail(("%s can't be pushed: %s"):format(to, last(result.lines)), { retry = not is_final(result.lines) })
    end
    work.build:log(("pushing %s failed, try %d of %d; again in %d s"):format(to, try, TRIES, pause))
    buildq.sleep(pause)
    pause = pause * 2
  end
end

return registry
