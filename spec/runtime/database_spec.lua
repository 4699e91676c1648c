-- The scratch database of `buildq test`: the whole server on it, and its clock.
local test = require "buildq.test"

local FLAKY <const> = [[
return { run = function(build)
  build:step("Fetching", function() build:exec { argv = { "fetch" } } end)
  build:log("fetched")
end }]]

describe("with a database", function()
  before_each(function()
    test.database()
    test.write("pipelines/flaky.lua", FLAKY)
  end)

  it("builds go through the queue, and owe their customer what they owe", function()
    test.exec:on("fetch", 0)
    local id = test.enqueue { pipeline = "flaky", metadata = { team = "web" } }
    local build = test.settle(id)
    assert.equal("success", build.status)
    assert.equal("web", build.metadata.team)
    assert.notified(id, "completed")
    assert.equal(1, test.sql("select count(*) as n from build_queue where customer_id = $1", "acme")[1].n)
  end)

  it("retries wait for the clock", function()
    local asked = 0
    test.exec:on("fetch", function()
      asked = asked + 1
      return asked < 2 and 1 or 0
    end)
    local id = test.enqueue { pipeline = "flaky" }
    assert.equal("pending", test.settle(id).status)
    assert.equal(1, asked)
    test.clock.advance "2m"
    assert.equal("pending", test.settle(id).status)
    test.clock.advance "10m"
    local build = test.settle(id)
    assert.equal("success", build.status)
    assert.equal(2, build.attempt)
    assert.equal(2, asked)
  end)

  it("may leave a build that never ends", function()
    test.exec:on("fetch", { hang = true })
    local id = test.enqueue { pipeline = "flaky" }
    test.clock.advance(1)
    assert.equal("building", test.get("/builds/" .. id).json.status)
  end)

  it("sleeps pass at once, and the clock may be set far", function()
    test.exec:on("fetch", 0)
    test.write("pipelines/nap.lua", [[
      return { run = function(build)
        require("buildq").sleep(1000)
        build:exec { argv = { "fetch" } }
      end }]])
    for _, duration in ipairs { "1h", "3d", "300d" } do
      test.clock.advance(duration)
      local build = test.settle(test.enqueue { pipeline = "nap" })
      assert.equal("success", build.status, duration)
      assert.is_true(build.buildDurationSeconds >= 1000)
    end
  end)

  it("begins each test without builds", function()
    assert.equal(0, test.sql("select count(*) as n from build_queue")[1].n)
    local answer = test.get "/builds"
    assert.same({}, answer.json.builds)
  end)

  it("routes have the queue, modules the database", function()
    test.exec:on("fetch", 0)
    local id = test.enqueue { pipeline = "flaky" }
    test.settle(id)
    assert.equal("success", test.require("buildq").queue.get(id).status)
    assert.equal(404, test.get("/builds/01890000-0000-7000-8000-000000000001").status)
    assert.matches("step: Fetching", test.get("/builds/" .. id .. "/log").body, 1, true)
  end)

  it("still runs pipelines directly", function()
    test.exec:on("fetch", 3)
    assert.build_failed(test.run "flaky", "exit code 3")
  end)
end)
