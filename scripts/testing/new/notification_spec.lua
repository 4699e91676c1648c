-- buildq test @DIRECTORY@/@NAME@_spec.lua
local test = require "buildq.test"

local function event(fields)
  local customer = { id = "acme", name = "Acme", email = "ops@acme.example" }
  local all = { event = "completed", build = "b-1", customer = customer }
  for name, value in pairs(fields) do all[name] = value end
  return all
end

describe("the notification @NAME@", function()
  local notification

  before_each(function() notification = test.script "notifications/@NAME@.lua" end)

  it("is for the end of a build", function()
    assert.same({ "completed", "failed" }, notification.events)
  end)

  it("goes to the customer's address", function()
    local deliveries = notification.deliver(event {})
    assert.equal(1, #deliveries)
    assert.equal("ops@acme.example", deliveries[1].recipient)
    assert.equal("email", deliveries[1].channel)
  end)

  it("goes to nobody without an address", function()
    assert.same({}, notification.deliver(event { customer = { email = "" } }))
  end)
end)
