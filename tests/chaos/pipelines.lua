-- The builds of a chaos run: some do nothing, some run real commands, some fail, some leave processes behind if nobody
-- ends them. Each tells in its log which attempt it is.
local pipelines = {}

local FILES <const> = {
  noop = [[return { run = function() end }]],
  steps = [[
    local buildq = require "buildq"
    return { run = function(build)
      for i = 1, 4 do build:step("Step " .. i, { at = 20 * i }, function() buildq.sleep(0.2) end) end
    end }]],
  -- A program that is compiled and run, and published.
  compile = [[
    local buildq = require "buildq"
    return { run = function(build)
      buildq.fs.write("main.c", '#include <stdio.h>\nint main(void) { return puts("attempt ' .. build.attempt
        .. '") < 0; }\n')
      build:step("Compile", { at = 30 }, function() build:exec { argv = { "gcc", "-o", "main", "main.c" } } end)
      build:step("Run", { at = 60 }, function() build:exec { argv = { "sh", "-c", "./main >out.txt" } } end)
      build:artifact "out.txt"
    end }]],
  -- Daemons that would outlive their command, if they were let.
  daemons = [[
    return { run = function(build)
      build:exec { argv = { "sh", "-c", "setsid sh -c 'sleep 300 & sleep 301' & (sleep 302 &) ; sleep 1.5" } }
    end }]],
  flaky = [[
    return { run = function(build)
      if build.retry_count == 0 then build:fail "the first try fails" end
      build:exec { argv = { "true" } }
    end }]],
  failing = [[return { run = function(build) build:fail "this one always fails" end }]],
  -- Takes room on the disk for a while: some of these meet a full one.
  large = [[
    return { run = function(build)
      build:exec { argv = { "sh", "-c", "head -c 3M /dev/urandom >big; sleep 0.5; cksum big >sum" } }
      build:artifact "sum"
    end }]],
  long = [[
    local buildq = require "buildq"
    return { run = function(build)
      build:exec { argv = { "sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 1; done" } }
    end }]],
}

-- How often each comes, in parts of their sum.
pipelines.WEIGHTS = {
  { "noop", 10 }, { "steps", 3 }, { "compile", 3 }, { "daemons", 1 }, { "flaky", 2 }, { "failing", 1 }, { "large", 1 },
  { "long", 1 },
}

--- Files of ScriptDirectory. Another `version` is another generation.
---@param version string
---@return table<string, string>
function pipelines.files(version)
  local files = {}
  for name, text in pairs(FILES) do files[("pipelines/%s.lua"):format(name)] = text .. "\n" end
  files["lib/version.lua"] = ("return %q\n"):format(version)
  return files
end

return pipelines
