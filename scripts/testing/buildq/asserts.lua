-- Assertions for builds, commands and notifications: assert.build_succeeded(result) and the like.
local assert = require "luassert"
local say = require "say"

local function tail(text, lines)
  local all = {}
  for line in (text or ""):gmatch "[^\n]+" do all[#all + 1] = line end
  return table.concat(all, "\n", math.max(1, #all - lines + 1))
end

local function describe(result)
  if type(result) ~= "table" then return tostring(result) end
  local message = tostring(result.message or result.errorMessage)
  return ("%s: %s\nits log ends in:\n%s"):format(tostring(result.status), message, tail(result.log, 12))
end

local function list(items, of)
  local names = {}
  for place, item in ipairs(items or {}) do names[place] = of(item) end
  return #names > 0 and table.concat(names, ", ") or "none"
end

local function register(name, text, check)
  say:set("assertion." .. name .. ".positive", text)
  say:set("assertion." .. name .. ".negative", "expected the contrary of: " .. text)
  assert:register("assertion", name, check, "assertion." .. name .. ".positive", "assertion." .. name .. ".negative")
end

return function(test)
  -- build_succeeded(result)
  register("build_succeeded", "expected a build that succeeds, it is %s", function(_, arguments)
    local good = arguments[1].status == "success"
    arguments[1] = describe(arguments[1])
    return good
  end)

  -- build_failed(result, pattern of its message)
  register("build_failed", "expected a build that fails with %s, it is %s", function(_, arguments)
    local result, pattern = arguments[1], arguments[2] or ""
    local message = result.message or result.errorMessage or ""
    local good = result.status == "failed" and message:find(pattern) ~= nil
    arguments[1], arguments[2] = pattern, describe(result)
    arguments.n = 2
    return good
  end)

  -- has_step(result, name)
  register("has_step", "expected the step %s, there are: %s", function(_, arguments)
    local result, name = arguments[1], arguments[2]
    local found = false
    for _, step in ipairs(result.steps) do found = found or step.name == name end
    arguments[1], arguments[2] = name, list(result.steps, function(step) return step.name end)
    return found
  end)

  -- has_artifact(result, name)
  register("has_artifact", "expected the artifact %s, there are: %s", function(_, arguments)
    local result, name = arguments[1], arguments[2]
    local found = false
    for _, artifact in ipairs(result.artifacts or {}) do found = found or artifact.name == name end
    arguments[1], arguments[2] = name, list(result.artifacts, function(artifact) return artifact.name end)
    return found
  end)

  -- command_ran(words of its line)
  register("command_ran", "expected a command with %s in its line, there were: %s", function(_, arguments)
    local words = arguments[1]
    arguments[2] = list(test.exec.calls, function(call) return call.line end)
    arguments.n = 2
    return test.exec:find(words) ~= nil
  end)

  -- notified(build's id, event)
  register("notified", "expected the notification %s, there are: %s", function(_, arguments)
    local rows, event = test.notifications(arguments[1]), arguments[2]
    local found = false
    for _, row in ipairs(rows) do found = found or row.event == event end
    arguments[1], arguments[2] = event, list(rows, function(row) return row.event end)
    return found
  end)
end
