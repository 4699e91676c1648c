-- The layers of core/: a file includes headers of its own layer and of those below it, nothing above.
-- Run from the top of the repository; prints each violation as file:line and fails when there is one.
local lfs = require "lfs"

local ORDER = { "base", "event", "io", "lua", "queue", "cli" } -- lowest first; core/main.c is above all
local RANK = {}
for rank, name in ipairs(ORDER) do RANK[name] = rank end

local faults = 0
local function fault(path, line, text)
  io.stderr:write(("%s:%d: %s\n"):format(path, line, text))
  faults = faults + 1
end

local function check(path, layer)
  local number = 0
  for line in io.lines(path) do
    number = number + 1
    local included = line:match('^%s*#%s*include%s+"([^"]+)"')
    if included then
      local target = included:match("^([%w_]+)/")
      if not target then
        fault(path, number, ('include "%s" by its path from core/, like "base/error.h"'):format(included))
      elseif not RANK[target] then
        fault(path, number, ('"%s" is in no known layer (%s)'):format(included, table.concat(ORDER, " < ")))
      elseif RANK[target] > RANK[layer] then
        fault(path, number, ('%s/ must not include "%s": %s is above it'):format(layer, included, target))
      end
    end
  end
end

local function walk(directory, layer)
  for name in lfs.dir(directory) do
    local path = directory .. "/" .. name
    if not name:find "^%." and lfs.attributes(path, "mode") == "directory" then
      walk(path, layer)
    elseif name:find "^[^.].*%.[ch]$" then
      check(path, layer)
    end
  end
end

for name in lfs.dir "core" do
  local path = "core/" .. name
  if not name:find "^%." and lfs.attributes(path, "mode") == "directory" then
    if RANK[name] then walk(path, name) else fault(path, 1, "a folder of core/ that is not a layer") end
  end
end
os.exit(faults == 0 and 0 or 1)
