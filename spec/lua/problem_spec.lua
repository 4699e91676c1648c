local problem = require "problem"

describe("problem", function()
  it("is a document of RFC 9457", function()
    local response = problem.new(409, "The build has ended already.", { errors = { 1 } })
    assert.equal(409, response.status)
    assert.equal("application/problem+json", response.headers["Content-Type"])
    assert.same({
      type = "about:blank", title = "Conflict", status = 409, detail = "The build has ended already.", errors = { 1 },
    }, response.json)
  end)

  for code, status in pairs { not_found = 404, conflict = 409, invalid = 400, unavailable = 503, other = 500 } do
    it("answers " .. status .. " for " .. code, function()
      assert.equal(status, problem.from({ code = code, message = "m" }).status)
    end)
  end

  it("says when to come again", function()
    assert.is_string(problem.from({ code = "unavailable", message = "m" }).headers["Retry-After"])
  end)

  it("tells the first fault and carries all", function()
    local faults = { { path = "$.a", message = "is required" }, { path = "$.b", message = "is required" } }
    local response = problem.faults(faults, "The request")
    assert.equal("The request has 2 faults; the first: $.a is required.", response.json.detail)
    assert.equal(faults, response.json.errors)
    assert.equal("The request has a fault: $.a is required.", problem.faults({ faults[1] }, "The request").json.detail)
  end)
end)
