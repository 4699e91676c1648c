-- buildq test @DIRECTORY@/@NAME@_spec.lua
local test = require "buildq.test"

describe("the route GET /@NAME@/{id}", function()
  -- test.database() in a before_each gives it a queue.

  it("answers with the id", function()
    local answer = test.get "/@NAME@/42?language=de"
    assert.equal(200, answer.status)
    assert.same({ id = "42", language = "de" }, answer.json)
  end)

  it("refuses what is no id", function()
    local answer = test.get("/@NAME@/" .. ("x"):rep(65))
    assert.equal(400, answer.status)
    assert.equal("application/problem+json", answer.headers["content-type"])
  end)

  it("takes no other method", function()
    assert.equal(405, test.post("/@NAME@/42").status)
  end)
end)
