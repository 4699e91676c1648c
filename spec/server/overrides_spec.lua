-- A team's files in the place of shipped ones: copied, noted, and told of when the original has changed since.
local Server = require "spec.support.server"
local process = require "spec.support.process"

describe("buildq override", function()
  local server, share

  local function command(...) return server:command { ... } end

  -- An installed program whose shipped files may change.
  setup(function()
    share = process.directory()
    process.check { "make", "-s", "install", "BUILD=" .. (os.getenv "BUILDQ_BUILD" or "build"), "PREFIX=/usr",
      "DESTDIR=" .. share }
    server = Server.new { scripts = { ["lib/own.lua"] = "return {}" }, program = share .. "/usr/bin/buildq" }
  end)

  local function warning(path)
    local done = command "check"
    assert.equal(0, done.code, done.errors)
    return (done.output .. done.errors):match(path:gsub("[%-%.]", "%%%0") .. ": WARNING: ([^\n]*)")
  end

  it("copies the file and notes what it was; check is content until the original changes", function()
    local done = command("override", "scripts/policies/limits.lua")
    assert.equal(0, done.code, done.errors)
    local copy = server.directory .. "/scripts/policies/limits.lua"
    assert.equal(process.read "scripts/policies/limits.lua", process.read(copy))
    assert.is_nil(warning "scripts/policies/limits.lua")
    assert.is_nil(warning "scripts/lib/own.lua") -- the team's alone

    local shipped = share .. "/usr/share/buildq/scripts/policies/limits.lua"
    process.write(shipped, process.read(shipped) .. "-- what the upgrade brought\n")
    assert.matches("has changed since", warning "scripts/policies/limits.lua")
    assert.equal(0, command("override", "--accept", "scripts/policies/limits.lua").code)
    assert.is_nil(warning "scripts/policies/limits.lua")
  end)

  it("never writes over a file, and refuses what is not shipped", function()
    process.write(server.directory .. "/scripts/policies/smart.lua", "return { retry = function() end } -- mine")
    assert.matches("was not noted", warning "scripts/policies/smart.lua")
    local done = command("override", "scripts/policies/smart.lua")
    assert.equal(1, done.code)
    assert.matches("is left as it is", done.errors)
    assert.matches("mine", process.read(server.directory .. "/scripts/policies/smart.lua"))
    done = command("override", "scripts/../../../etc/passwd")
    assert.equal(1, done.code)
    assert.matches("no shipped file", done.errors)
  end)
end)
