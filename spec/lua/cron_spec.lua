local cron = require "cron"

local function list(text) return table.concat(text, " ") end

describe("cron", function()
  it("reads numbers, lists, ranges, steps and names", function()
    local fields = assert(cron.parse "0,30 8-10 */10 jan,Mar-MAY mon-wed/2")
    assert.equal("0 30", list(fields.minutes))
    assert.equal("8 9 10", list(fields.hours))
    assert.equal("1 11 21 31", list(fields.days))
    assert.equal("1 3 4 5", list(fields.months))
    assert.equal("1 3", list(fields.weekdays))
  end)

  it("takes 0 and 7 for Sunday, also at the end of a range", function()
    assert.equal("0", list(assert(cron.parse "0 0 * * 7").weekdays))
    assert.equal("0", list(assert(cron.parse "0 0 * * sun,0").weekdays))
    assert.equal("0 5 6", list(assert(cron.parse "0 0 * * fri-sun").weekdays))
    assert.equal("0 5 6", list(assert(cron.parse "0 0 * * 5-7").weekdays))
    assert.equal("0 1 2 3 4 5 6", list(assert(cron.parse "0 0 * * *").weekdays))
  end)

  it("asks for either of two restricted days, for both when one begins with a star", function()
    assert.is_true(assert(cron.parse "0 0 13 * fri").either)
    assert.is_false(assert(cron.parse "0 0 13 * *").either)
    assert.is_false(assert(cron.parse "0 0 */2 * fri").either)
    assert.is_false(assert(cron.parse "0 0 13 * */2").either)
  end)

  it("knows the names of common expressions", function()
    for name, expression in pairs { ["@yearly"] = "0 0 1 1 *", ["@annually"] = "0 0 1 1 *", ["@monthly"] = "0 0 1 * *",
      ["@weekly"] = "0 0 * * 0", ["@daily"] = "0 0 * * *", ["@midnight"] = "0 0 * * *", ["@hourly"] = "0 * * * *" } do
      assert.same(cron.parse(expression), cron.parse(name))
    end
    assert.same(cron.parse "@daily", cron.parse " \t@Daily ")
  end)

  it("follows elapsed time when every hour is named", function()
    assert.is_true(assert(cron.parse "*/15 * * * *").wild)
    assert.is_true(assert(cron.parse "@hourly").wild)
    assert.is_false(assert(cron.parse "0 */2 * * *").wild)
    assert.is_false(assert(cron.parse "* 2 * * *").wild)
  end)

  local WRONG <const> = {
    ["60 * * * *"] = "0 to 59", ["* 24 * * *"] = "0 to 23", ["* * 0 * *"] = "1 to 31", ["* * * 13 *"] = "1 to 12",
    ["* * * * 8"] = "0 to 7", ["* * * foo *"] = "no month", ["5/15 * * * *"] = "as in 5-59/15",
    ["*/0 * * * *"] = "step",
    ["*/x * * * *"] = "step", ["9-5 * * * *"] = "ends before it begins", ["1,,2 * * * *"] = "no minute",
    ["* * * *"] = "4 fields", ["* * * * * *"] = "6 fields", [""] = "0 fields", ["@reboot"] = "not known",
    ["0 0 30 2 *"] = "never comes", ["0 0 31 4,6 *"] = "never comes", ["-1 * * * *"] = "no minute",
    ["1- * * * *"] = "no minute", ["1-2-3 * * * *"] = "no minute", ["1.5 * * * *"] = "no minute",
  }
  for expression, reason in pairs(WRONG) do
    it(("refuses %q"):format(expression), function()
      local fields, message = cron.parse(expression)
      assert.is_nil(fields)
      assert.truthy(message:find(reason, 1, true), message)
    end)
  end

  it("refuses what is no text", function()
    for _, value in ipairs { 5, {}, false } do assert.is_nil((cron.parse(value))) end
    assert.is_nil((cron.parse()))
  end)

  it("takes a day that only a leap year has", function()
    assert.truthy(cron.parse "0 0 29 2 *")
    assert.truthy(cron.parse "0 0 30 2 fri")
  end)
end)
