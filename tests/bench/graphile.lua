-- graphile-worker, which npm brings once into the build directory.
local process = require "spec.support.process"
local postgres = require "spec.support.postgres"
local support = require "tests.bench.support"

local graphile = {}

local PACKAGE <const> = "graphile-worker@0.17"

--- Where it lies. Nil when there is no npm, or no way to its registry.
---@return string|nil
function graphile.directory()
  local directory = (os.getenv "BUILDQ_BUILD" or "build") .. "/graphile"
  local installed = directory .. "/node_modules/graphile-worker/package.json"
  if process.read(installed) == "" and support.has "npm" and support.has "node" then
    process.check { "mkdir", "-p", directory }
    process.run({ "npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", directory, PACKAGE },
      { seconds = 300 })
  end
  if process.read(installed) == "" then return nil end
  return process.check { "realpath", directory }
end

--- What graphile.mjs prints, on a database of its own.
---@param directory string
---@param mode "ordinary"|"batched"
---@param what string a number of jobs, or latencyN
---@return string
function graphile.run(directory, mode, what)
  local env = { PATH = os.getenv "PATH", HOME = os.getenv "HOME", NODE_ENV = "production",
    GRAPHILE_DIRECTORY = directory }
  local connection = "postgres://postgres@localhost/" .. postgres.create() .. "?host="
    .. postgres.connection_string("x"):match "host=(%S+)"
  return process.check({ "node", "tests/bench/graphile.mjs", connection, what, mode }, { env = env, seconds = 300 })
end

return graphile
