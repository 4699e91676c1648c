-- Templates of a running server: a fault in one never goes live.
local Server = require "spec.support.server"

local server

setup(function() server = Server.start {} end)

teardown(function()
  if server then server:stop() end
end)

local function generation() return server:get("/readyz").json.generation end

describe("a saved template", function()
  it("is refused with its file and line, and what ran goes on; mended, it goes live", function()
    local before = generation()
    server:write("templates", { ["email/failed.html"] = "<p>\n{{ build.nmae }}</p>\n" })
    local answer = server:post("/admin/reload", {})
    assert.equal(422, answer.status)
    assert.truthy(answer.body:find("templates/email/failed.html:2: there is no build.nmae", 1, true), answer.body)
    assert.equal(before, generation())
    server:write("templates", { ["email/failed.html"] = "<p>\n{{ build.tier }}</p>\n" })
    answer = server:post("/admin/reload", {})
    assert.equal(200, answer.status, answer.body)
    assert.not_equal(before, generation())
    server:write("scripts", {
      ["notifications/chat.lua"] = "return { events = { 'failed' }, deliver = function(e)\n return e.build.x.y end }",
    })
    answer = server:post("/admin/reload", {})
    assert.equal(422, answer.status)
    assert.truthy(answer.body:find("scripts/notifications/chat.lua:2: ", 1, true), answer.body)
  end)
end)
