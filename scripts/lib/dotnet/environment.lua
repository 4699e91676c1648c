-- What a `dotnet` command of a build is given: variables, and what of the machine it sees.

local buildq = require "buildq"
local plan = require "manifest.plan"

local environment = {}

-- Whose packages a build shares. Code that the shop chose shares one cache; code that a request brought has one of its
-- customer's, since whatever may write there can change what others get.
local function cache_name(build)
  if build.manifest_trusted or not plan.is_foreign(build.manifest) then return "nuget/shop" end
  return "nuget/customer-" .. buildq.sha256(build.customer.id):sub(1, 24)
end

---@class DotnetEnvironment
---@field env table<string, string>
---@field mounts table<string, "read"|"write">
---@field source? string the package source to use instead of the SDK's and the product's

--- For the commands of one build.
---@param build Build
---@param cached boolean packages come from the cache that builds share
---@return DotnetEnvironment
function environment.new(build, cached)
  local config, mounts = build.config, {}
  local env = {
    DOTNET_CLI_TELEMETRY_OPTOUT = "1", DOTNET_NOLOGO = "1", DOTNET_SKIP_FIRST_TIME_EXPERIENCE = "1",
    DOTNET_GENERATE_ASPNET_CERTIFICATE = "false", DOTNET_CLI_WORKLOAD_UPDATE_NOTIFY_DISABLE = "true",
    DOTNET_CLI_HOME = build.workspace .. "/.dotnet", MSBUILDDISABLENODEREUSE = "1", DOTNET_CLI_USE_MSBUILD_SERVER = "0",
    DOTNET_CLI_UI_LANGUAGE = "en", NUGET_CERT_REVOCATION_MODE = "offline",
  }
  -- NuGet locks what it writes by files in its scratch directory, so that must be shared as well.
  local cache = build.workspace .. "/.nuget"
  if cached then
    cache = build:shared(cache_name(build))
    mounts[cache] = "write"
  end
  env.NUGET_PACKAGES, env.NUGET_HTTP_CACHE_PATH = cache .. "/packages", cache .. "/http"
  env.NUGET_SCRATCH, env.NUGET_PLUGINS_CACHE_PATH = cache .. "/scratch", cache .. "/plugins"
  if config.DotnetDirectory ~= "" then
    env.PATH = config.DotnetDirectory .. ":/usr/local/bin:/usr/bin:/bin"
    env.DOTNET_ROOT = config.DotnetDirectory
    mounts[config.DotnetDirectory] = "read"
  end
  if config.TrustedCertificates ~= "" then
    env.SSL_CERT_FILE, env.SSL_CERT_DIR = config.TrustedCertificates, "/etc/ssl/certs"
    mounts[config.TrustedCertificates] = "read"
  end
  local source = config.NuGetSource ~= "" and config.NuGetSource or nil
  if source and source:sub(1, 1) == "/" then mounts[source] = "read" end
  return { env = env, mounts = mounts, source = source }
end

return environment
