-- What single values of a manifest may be: each rule looks at one text and gives nil, or what would be right.

local catalogue = require "catalogue"

local rules = {}

-- Transports that git may use with a repository of a manifest.
local REMOTE <const> = { https = true, http = true, ssh = true, git = true }

--- Whether a repository is read from this machine's disk: a path, or a file: URL.
function rules.is_local(repository)
  if repository:find("^[fF][iI][lL][eE]:") then return true end
  if repository:find("^%a[%w+.-]*://") then return false end
  local host = repository:match("^([^/]-):") -- git@host:path has a colon before the first slash
  return host == nil
end

--- The path that a local repository names, without the file: scheme.
function rules.local_path(repository)
  return (repository:gsub("^[fF][iI][lL][eE]:", ""):gsub("^//[^/]*/", "/"))
end

--- Whether a relative path stays where it begins.
function rules.stays_inside(path)
  if path:sub(1, 1) == "/" then return false end
  for segment in path:gmatch("[^/]+") do
    if segment == ".." then return false end
  end
  return true
end

--- The host of a remote repository as it is written there, with its port when it names one. A host ends where curl's
--- does (RFC 3986, section 3.2: at "/", "?" or "#"; "\\" is none of a URL's characters).
---@return string?
function rules.host(repository)
  local authority = repository:match("^%a[%w+.-]*://([^/?#\\]*)") or repository:match("^([^/:?#\\]+):")
  return authority and authority:gsub("^.*@", "") or nil
end

--- Whether what is said to the repository's host is encrypted: a credential goes nowhere else.
function rules.is_encrypted(repository)
  local scheme = repository:match("^(%a[%w+.-]*)://")
  return not scheme or scheme:lower() == "https" or scheme:lower() == "ssh"
end

--- What a server may offer and a build need (core/base/label.h).
---@return string? message
function rules.label(text)
  if #text <= 64 and text:find "^%w[%w._+=/-]*$" then return nil end
  return "must be a label: 1 to 64 letters, digits and . _ + = / -, a letter or a digit first"
end

local function no_dots(text)
  for segment in text:gmatch("[^/]+") do
    if segment == ".." then return 'must not hold ".." segments' end
  end
  return nil
end

--- A repository. `trusted`: it may lie on the server's disk.
---@return string? message
---@return boolean? hidden the value may hold a secret and is not to be repeated
function rules.repository(repository, trusted)
  if repository:sub(1, 1) == "-" then return "must not begin with a dash" end
  if repository:find("::", 1, true) then return 'must not name a git remote helper ("name::address")', true end
  if repository:find("^%a[%w+.-]*://[^/]*:[^/@]*@") then
    return "must not hold a password: it would reach logs; name an entry of the option Credentials", true
  end
  if rules.is_local(repository) then
    if not trusted then
      return "is on the server's disk, which only manifests from ManifestDirectory may name (or AllowInlineCommands)"
    end
    return no_dots(rules.local_path(repository))
  end
  -- None of these is in a repository's address, and each ends a host for some who read it and not for others.
  if repository:find("[%s%c\\?#]") then return "must not hold blanks, ?, # or \\" end
  local scheme = repository:match("^(%a[%w+.-]*)://")
  if scheme and not REMOTE[scheme:lower()] then return "must be an https, http, ssh or git URL" end
  -- ssh takes a host that begins with a dash for an option.
  local host = scheme and repository:match("^[^/]*//([^/]*)") or repository:match("^([^:]*)")
  if not host or host == "" or host:find("^%-") or host:find("@-", 1, true) then return "must name a host" end
  if host:find("[^%w._~@:%[%]-]") or select(2, host:gsub("@", "")) > 1 then
    return "must name a host of letters, digits, dots and dashes, one user at most before it"
  end
  return nil
end

--- A branch, a tag or a commit.
function rules.ref(ref)
  if ref:sub(1, 1) == "-" then return "must not begin with a dash" end
  if ref:find("[^%w._/@+#=,-]") or ref:find("..", 1, true) or ref:find("@{", 1, true) then
    return "must be a branch, a tag or a commit"
  end
  return nil
end

--- A name that is safe as a file's.
function rules.name(text)
  if #text <= 64 and text:find("^[%w_][%w._-]*$") then return nil end
  return "must be letters, digits and . _ -, no dot or dash at the beginning, 64 at most"
end

function rules.url(text, trusted)
  local scheme = text:match("^(%a[%w+.-]*)://")
  if scheme and (scheme:lower() == "http" or scheme:lower() == "git") then
    return "must be https or ssh: over " .. scheme .. " anybody on the way could change the source"
  end
  return rules.repository(text, trusted)
end

function rules.project(text)
  if text:sub(1, 1) == "-" then return "must not begin with a dash" end
  if not rules.stays_inside(text) then return 'must be relative, without ".." segments' end
  if not text:lower():find("%.%a+proj$") then return "must be a project file: .csproj, .fsproj or .vbproj" end
  return nil
end

function rules.registry(text)
  local host, port = text:match("^([%w][%w.-]*)(:?%d*)$")
  if host and (port == "" or (port:find("^:%d+$") and tonumber(port:sub(2)) <= 65535)) then return nil end
  return "must be a host, or host:port, without https:// and without a path"
end

function rules.image(text)
  for part in (text .. "/"):gmatch("([^/]*)/") do
    if not part:find("^[%l%d][%l%d._-]*$") then
      return "must be lower-case letters, digits and . _ - in parts separated by slashes"
    end
  end
  return nil
end

function rules.tag(text)
  if text:find("^[%w_][%w._-]*$") then return nil end
  return "must be letters, digits and . _ -, no dot or dash at the beginning"
end

function rules.version(text)
  return not text:find("^[%w][%w._+-]*$") and "must be letters, digits and . _ + -, as in 2.1.0" or nil
end

function rules.time(text)
  return not text:find("^%d%d%d%d%-%d%d%-%d%d[T ]%d%d:%d%d") and "must be a time as in 2026-01-31T12:00:00Z" or nil
end

function rules.argument(text)
  return not text:find("^%-%-?[%w][%w:=.,_/-]*$") and "must be an argument as in --instruction-set:native" or nil
end

function rules.architecture(text)
  if catalogue.architecture(text) then return nil end
  return "is no architecture of the catalogue; there are: " .. catalogue.names(catalogue.architectures)
end

function rules.tier(text)
  if catalogue.tier(text) then return nil end
  return "is no tier of the catalogue; there are: " .. catalogue.names(catalogue.tier_names)
end

-- Properties that optimizations and the target decide; given twice, one would silently win.
local DECIDED <const> = {
  publishaot = "optimizations.nativeAot", publishtrimmed = "optimizations.trim",
  publishreadytorun = "optimizations.readyToRun", tieredpgo = "optimizations.pgo",
  tieredcompilation = "optimizations.tieredCompilation", selfcontained = "optimizations.selfContained",
  runtimeidentifier = "the target's architecture", runtimeidentifiers = "the target's architecture",
  configuration = "the pipeline", artifactspath = "the pipeline", outputpath = "the pipeline",
  publishdir = "the pipeline", ilcinstructionset = "optimizations.vectorization",
  optimizationpreference = "optimizations.optimizationPreference",
}

--- A property's name and value.
function rules.property(_, _, key)
  if not key:find("^[%a_][%w_.-]*$") or #key > 100 then return "is not a name that an MSBuild property can have" end
  local by = DECIDED[key:lower()]
  return by and ("is decided by %s; take it out"):format(by) or nil
end

function rules.variable(_, _, key)
  if key:find("^[%a_][%w_.-]*$") and #key <= 255 then return nil end
  return "is not a name that an environment variable can have"
end

return rules
