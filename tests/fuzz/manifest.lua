-- Manifests, of both forms: a check never fails, and says what is wrong or gives a shape that it accepts unchanged;
-- choosing and planning what it accepts never fails either.
local json, manifest = require("buildq").json, require "manifest"
local world = { machine = "linux-x64", has_program = function() return false end }

local function expect_faults(faults)
  assert(#faults > 0, "refused without a fault")
  for _, fault in ipairs(faults) do
    assert(type(fault.path) == "string" and fault.path:sub(1, 1) == "$", "a fault without a path")
    assert(type(fault.message) == "string" and #fault.message > 0, "a fault without a message")
  end
  json.encode(faults)
end

local function check(text, trusted)
  local options = { trusted = trusted, world = world }
  local normal, faults = manifest.check(json.decode(text), options)
  if not normal then return expect_faults(faults) end
  assert(#faults == 0, "accepted with faults")
  local first = json.encode(normal)
  local second, more = manifest.check(json.decode(first), options)
  assert(second, more[1] and more[1].path .. ": " .. more[1].message)
  assert(json.encode(second) == first, "what it gave has changed: " .. first .. json.encode(second))
  local chosen, reasons = manifest.choose(normal, {})
  if not chosen then return expect_faults(reasons) end
  reasons = manifest.check_choice(normal, chosen)
  if #reasons > 0 then return expect_faults(reasons) end
  manifest.plan(normal, chosen, world)
end

return function(text)
  if not pcall(json.decode, text) then return end
  check(text, false)
  check(text, true)
end
