-- The pipeline @NAME@: what a build does whose request or manifest says `"pipeline": "@NAME@"`.
-- All functions: scripts/README.md, and lib/buildq.d.lua for your editor. Try it: buildq test, buildq run @NAME@.
local buildq = require "buildq"
local fs = buildq.fs -- files of the workspace, an empty directory of this attempt

-- A step has a name that customers see and a percentage at which it begins. It is written straight down: what waits
-- (commands, requests, sleeps) holds nobody else up.
---@param build Build
local function run(build)
  build:step("Preparing", { at = 10 }, function()
    fs.write("order.json", buildq.json.encode({ customer = build.customer.name, tier = build.tier }, { indent = 2 }))
  end)

  build:step("Building", { at = 30 }, function()
    -- A list is run as it is, without a shell; an exit code other than 0 ends the build as failed.
    build:exec { argv = { "cp", "order.json", "result.json" }, timeout = 60 }
    -- What the program printed: build:exec({ argv = { "git", "rev-parse", "HEAD" }, capture = true }).output
  end)

  build:step("Publishing", { at = 90 }, function()
    -- Artifacts are visible when the build has succeeded, all at once.
    build:artifact("result.json", { kind = "result" })
    build:result { provenance = { tool = "cp" } }
  end)
  -- build:fail("no such branch", { retry = false }) ends it as failed; build:defer(fn) runs fn however it ends.
end

return {
  run = run,
  -- pin = "build",                    -- a retry stays on the scripts that the build began with
  -- needs = { secrets = { "registry" } }, -- then build:secret "registry" gives it
  -- check = function() end,           -- raises when something is wrong: the scripts are not taken then
}
