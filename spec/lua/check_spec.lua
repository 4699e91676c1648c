local check = require "check"

describe("check", function()
  local c
  before_each(function() c = check.new() end)

  it("takes names in any case and refuses one given twice", function()
    local fields = c:object({ NAME = "x", nAmE = "y", other = 1 }, "$", { "name" })
    assert.equal("x", fields.name)
    assert.equal("$.nAmE", c.faults[1].path)
    assert.equal(1, #c.faults)
  end)

  it("counts null as absent", function()
    assert.is_nil(c:object({ name = io.stdout }, "$", { "name" }).name)
    assert.is_nil(c:text(io.stdout, "$.x", { max = 5 }))
    assert.equal(0, #c.faults)
  end)

  it("tells an empty array from an empty object", function()
    assert.is_true(check.is_array(check.array()))
    assert.is_false(check.is_array({}))
    c:list({}, "$.list", 5, function(item) return item end)
    assert.equal("must be an array, is an object", c.faults[1].message)
  end)

  it("counts characters, not bytes", function()
    assert.equal("ääää", c:text("ääää", "$.x", { max = 4 }))
    assert.is_nil(c:text("äääää", "$.x", { max = 4 }))
    assert.matches("has 5 characters, at most 4", c.faults[1].message)
  end)

  for name, text in pairs {
    ["bad UTF-8"] = "a\xff", NUL = "a\0b", ["a line break"] = "a\nb", ["an escape"] = "\27[1m",
  } do
    it("refuses " .. name, function()
      assert.is_nil(c:text(text, "$.x", { max = 50 }))
      assert.equal(1, #c.faults)
      assert.is_nil(c.faults[1].value)
    end)
  end

  it("refuses blanks where something must be", function()
    assert.is_nil(c:text("  ", "$.x", { max = 5 }))
    assert.equal("", c:text("", "$.x", { max = 5, min = 0 }))
    assert.equal(1, #c.faults)
  end)

  it("refuses numbers outside, and those that are none", function()
    assert.equal(5, c:number(5, "$.n", 0, 10))
    for _, bad in ipairs { -1, 11, 0 / 0, "5" } do assert.is_nil(c:number(bad, "$.n", 0, 10)) end
    assert.equal(4, #c.faults)
  end)

  it("bounds what it echoes and how much it reports", function()
    for _ = 1, 300 do c:fault("$", ("x"):rep(5000), "is long") end
    assert.equal(100, #c.faults)
    assert.is_true(#c.faults[1].value <= 100)
  end)

  it("writes paths that name the place", function()
    assert.equal("$.a[0]", check.join(check.join("$", "a"), 0))
    assert.equal('$["a b"]', check.join("$", "a b"))
  end)
end)
