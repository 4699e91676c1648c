-- buildq test @DIRECTORY@/@NAME@_spec.lua
local test = require "buildq.test"

describe("the pipeline @NAME@", function()
  before_each(function()
    -- What commands answer: an exit code, an output, or a table. exec:real() would do them in the sandbox.
    test.exec:on("cp", { files = { ["result.json"] = "{}" } })
  end)

  it("publishes its result", function()
    local result = test.run("@NAME@", { tier = "pro", customer = { name = "Acme" } })
    assert.build_succeeded(result)
    assert.has_step(result, "Building")
    assert.command_ran "cp order.json"
    assert.has_artifact(result, "result.json")
    assert.matches('"customer": "Acme"', result:file "order.json", 1, true)
  end)

  it("fails when its command does", function()
    test.exec:on("cp", 1)
    assert.build_failed(test.run "@NAME@", "cp: exit code 1")
  end)

  it("gives its command a minute", function()
    test.exec:on("cp", { hang = true })
    assert.build_failed(test.run "@NAME@", "time limit of 60 s")
  end)
end)
