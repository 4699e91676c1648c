-- `buildq new`: what it writes passes its own spec, for each kind; and luacheck knows the globals that scripts see.
local process = require "spec.support.process"
local test = require "buildq.test"

local PROGRAM <const> = (os.getenv "BUILDQ_BUILD" or "build") .. "/buildq"
local ROOMS <const> = {
  pipeline = "pipelines", policy = "policies", route = "routes", notification = "notifications",
}

local function new(directory, kind, name)
  return process.run { PROGRAM, "new", kind, name, "--directory", directory }
end

describe("buildq new", function()
  local directory

  before_each(function() directory = process.directory() end)

  for kind, room in pairs(ROOMS) do
    it("writes a " .. kind .. " that passes its own spec and luacheck", function()
      local made = new(directory, kind, "first")
      assert.equal(0, made.code, made.errors)
      local spec = ("%s/%s/first_spec.lua"):format(directory, room)
      assert.truthy(made.output:find("buildq test " .. spec, 1, true), made.output)
      local ran = process.run { PROGRAM, "test", "--scripts", directory, "--output", "TAP", spec }
      assert.equal(0, ran.code, ran.output .. ran.errors)
      assert.is_true(select(2, ran.output:gsub("\nok %d", "")) + (ran.output:find "^ok" and 1 or 0) >= 3, ran.output)
      local checked = process.run({ "luacheck", "--no-color", "." }, { cwd = directory })
      assert.equal(0, checked.code, checked.output)
      -- The spec is no test of nothing: it fails without what it tests.
      process.write(("%s/%s/first.lua"):format(directory, room), "return {}")
      assert.equal(1, process.run({ PROGRAM, "test", "--scripts", directory, spec }).code)
    end)
  end

  it("overwrites nothing", function()
    assert.equal(0, new(directory, "route", "mine").code)
    process.write(directory .. "/routes/mine.lua", "-- my own")
    process.write(directory .. "/.luacheckrc", "-- my own")
    os.remove(directory .. "/routes/mine_spec.lua")
    local again = new(directory, "route", "mine")
    assert.equal(1, again.code)
    assert.matches("mine.lua exists already", again.errors, 1, true)
    assert.equal("-- my own", process.read(directory .. "/routes/mine.lua"))
    assert.equal("", process.run({ "find", directory .. "/routes", "-name", "mine_spec.lua" }).output)
    assert.equal(0, new(directory, "route", "other").code)
    assert.equal("-- my own", process.read(directory .. "/.luacheckrc"))
  end)

  it("refuses names and kinds that can't be", function()
    for _, name in ipairs { "Upper", "../x", "", "x_spec", "-x", ("x"):rep(65) } do
      assert.equal(2, process.run({ PROGRAM, "new", "--directory", directory, "--", "route", name }).code, name)
    end
    local result = new(directory, "pipelin", "x")
    assert.equal(2, result.code)
    assert.matches("did you mean pipeline", result.errors, 1, true)
    assert.equal("", process.run({ "find", directory, "-type", "f" }).output)
  end)
end)

describe("the luacheck configuration", function()
  -- name → true, or name → its fields
  local function known()
    local env = { files = {} }
    assert(loadfile("scripts/testing/new/luacheckrc", "t", env))()
    local names = {}
    for key, value in pairs(env.std.read_globals) do
      if type(key) == "number" then
        names[value] = true
      else
        names[key] = {}
        for _, field in ipairs(value.fields) do names[key][field] = true end
      end
    end
    return names
  end

  -- Debian's Lua has these of 5.2 still; the manual of 5.4 has not, so that no script should use them.
  local OLD <const> = {
    cosh = true, sinh = true, tanh = true, pow = true, frexp = true, ldexp = true, log10 = true, atan2 = true,
  }

  -- What stock Lua has is there or not, as the configuration says; and nothing else is.
  it("knows the globals that scripts see", function()
    local names = known()
    local stock = {}
    for name, value in pairs(_G) do
      if package.loaded[name] == value or type(value) == "function" then stock[name] = value end
    end
    for name in pairs(names) do assert.truthy(stock[name] or name == "_VERSION", name) end
    for name, value in pairs(stock) do
      local there = test.lua("return _G[...] ~= nil", name)
      assert.equal(names[name] ~= nil, there, name)
      for field in pairs(there and value ~= _G and type(value) == "table" and value or {}) do
        local seen = test.lua("local t, f = ... return _G[t][f] ~= nil", name, field) and not OLD[field]
        assert.equal(names[name][field] ~= nil, seen, name .. "." .. field)
      end
    end
  end)
end)
