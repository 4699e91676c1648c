-- Templates of a running server: a fault in one never goes live.
local Server = require "spec.support.server"
local process = require "spec.support.process"

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
    process.check { "rm", server.directory .. "/scripts/notifications/chat.lua" }
  end)

  it("of files to deploy with is rendered for each provider before it goes live", function()
    local before = generation()
    local function refused(path, text)
      server:write("templates", { [path] = text })
      local answer = server:post("/admin/reload", {})
      assert.equal(422, answer.status, answer.body)
      assert.equal(before, generation())
      process.check { "rm", server.directory .. "/templates/" .. path }
      return answer.body
    end
    assert.matches("templates/deploy/gcp/cloud-run.yaml:2: there is no naem", refused("deploy/gcp/cloud-run.yaml",
      "kind: Service\nname: {{ naem | json }}\n"), 1, true)
    -- Where the manifest says something, and where it does not.
    assert.matches("templates/deploy/docker/compose.yaml:1: there is no target.regoin", refused(
      "deploy/docker/compose.yaml", "{% if environment and target.compute %}{{ target.regoin }}{% end %}"), 1, true)
    assert.matches("templates/deploy/on-premises/unit.service:1: ", refused("deploy/on-premises/unit.service",
      "{% if not memory %}{{ title | nuit }}{% end %}"), 1, true)
    assert.matches("a ecs-task-definition.json that is no JSON", refused("deploy/aws/ecs-task-definition.json",
      '{ "family": {{ name }} }\n'), 1, true)
    assert.equal(200, server:post("/admin/reload", {}).status)
  end)
end)
