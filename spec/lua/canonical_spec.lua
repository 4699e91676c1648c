local canonical = require "canonical"
local json = require "spec.support.json"

describe("canonical.encode", function()
  it("writes numbers as RFC 8785, appendix B, does", function()
    for _, case in ipairs {
      { "0000000000000000", "0" }, { "8000000000000000", "0" },
      { "0000000000000001", "5e-324" }, { "8000000000000001", "-5e-324" },
      { "7fefffffffffffff", "1.7976931348623157e+308" }, { "4340000000000000", "9007199254740992" },
      { "c340000000000000", "-9007199254740992" }, { "4430000000000000", "295147905179352830000" },
      { "44b52d02c7e14af5", "9.999999999999997e+22" }, { "44b52d02c7e14af6", "1e+23" },
      { "44b52d02c7e14af7", "1.0000000000000001e+23" }, { "444b1ae4d6e2ef4e", "999999999999999700000" },
      { "444b1ae4d6e2ef4f", "999999999999999900000" }, { "444b1ae4d6e2ef50", "1e+21" },
      { "3eb0c6f7a0b5ed8c", "9.999999999999997e-7" }, { "3eb0c6f7a0b5ed8d", "0.000001" },
      { "41b3de4355555553", "333333333.3333332" }, { "41b3de4355555554", "333333333.33333325" },
      { "41b3de4355555555", "333333333.3333333" }, { "becbf647612f3696", "-0.0000033333333333333333" },
      { "43143ff3c1cb0959", "1424953923781206.2" },
    } do
      local bytes = case[1]:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)
      assert.equal(case[2], canonical.encode((string.unpack(">d", bytes))))
    end
    assert.equal("-12", canonical.encode(-12))
    assert.has_error(function() canonical.encode(0 / 0) end)
  end)

  it("sorts names by UTF-16 code units, as in RFC 8785, 3.2.3", function()
    local value = { ["\u{20ac}"] = "Euro Sign", ["\r"] = "Carriage Return", ["1"] = "One", ["\u{80}"] = "Control",
      ["\u{fb33}"] = "Hebrew Letter Dalet With Dagesh", ["\u{1f600}"] = "Emoji: Grinning Face",
      ["\u{f6}"] = "Latin Small Letter O" }
    local order = {}
    for text in canonical.encode(value):gmatch ':"([^"]+)"' do order[#order + 1] = text:match "^%S+" end
    assert.same({ "Carriage", "One", "Control", "Latin", "Euro", "Emoji:", "Hebrew" }, order)
  end)

  it("escapes only what JSON needs", function()
    assert.equal('"\\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"',
      (canonical.encode("€$\15\nA'B\"\\\\\"/"):gsub("€", "\\u20ac")))
    assert.equal('{"a":[],"b":{},"c":null,"d":[true,false]}',
      canonical.encode { a = require("check").array(), b = {}, c = json.null, d = { true, false } })
  end)
end)
