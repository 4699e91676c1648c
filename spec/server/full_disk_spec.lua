-- A disk that is full in the middle of a build. The server runs in a mount namespace of its own where the workspaces,
-- the output or the state are on a small disk; the spec sees only what the API tells.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local SCRIPTS <const> = builds.scripts {
  ["pipelines/command.lua"] = [[return { run = function(build)
    build:step("Filling", function()
      build:exec { argv = { "sh", "-c", "exec head -c 50000000 /dev/zero > big" } }
    end)
  end }]],
  ["pipelines/script.lua"] = [[
    local fs = require("buildq").fs
    return { run = function(build)
      build:step("Filling", function()
        for i = 1, 100 do fs.write("big" .. i, ("x"):rep(1000000)) end
      end)
    end }
  ]],
  ["pipelines/artifact.lua"] = [[return { run = function(build)
    build:exec { argv = { "sh", "-c", "exec head -c 50000000 /dev/zero > big" } }
    build:step("Publishing", function() build:artifact "big" end)
  end }]],
  ["pipelines/talk.lua"] = [[return { run = function(build)
    build:exec { argv = { "sh", "-c", "exec head -c 50000000 /dev/zero" } }
  end }]],
}

-- A program that mounts 16 MB over one directory of the server before it begins.
local function on_small_disk(name)
  local config = { MaxRetryAttempts = 0, MaxLogMegabytes = 100 }
  local server = Server.new { scripts = SCRIPTS, config = { BuildQueue = config } }
  local path, user = server.directory .. "/" .. name, process.ordinary_user()
  local program = server.directory .. "/small-disk.sh"
  process.write(program, ([[#!/bin/sh
[ -n "$SMALL_DISK" ] || SMALL_DISK=1 exec unshare %s -m sh "$0" "$@"
mount -t tmpfs -o size=16m,mode=755%s small %s || exit 3
exec %s %s "$@"
]]):format(user and "" or "-U --map-current-user --keep-caps",
    user and (",uid=%d,gid=%d"):format(user.uid, user.gid) or "", path,
    user and "" or "setpriv --ambient-caps=-all --inh-caps=-all", Server.program()))
  process.check { "chmod", "755", program }
  server.options.program = program
  return server:launch()
end

local function expect_told(server, pipeline)
  local build = builds.run(server, { pipeline = pipeline }, "failed", 60)
  assert.truthy(build.errorMessage:lower():find("no space left", 1, true), build.errorMessage)
  assert.equal(200, server:get("/healthz").status)
  return build.errorMessage
end

describe("a disk that is full", function()
  it("with workspaces fails the step in words, and the next build works", function()
    local server = on_small_disk "builds"
    for _, pipeline in ipairs { "command", "script" } do
      local message = expect_told(server, pipeline)
      assert.truthy(message:find("Filling", 1, true), message)
      builds.run(server)
    end
    assert.equal(0, server:stop())
  end)

  it("with artifacts fails the step in words, and leaves no half of one", function()
    local server = on_small_disk "output"
    local message = expect_told(server, "artifact")
    assert.truthy(message:find("big", 1, true), message)
    builds.run(server)
    assert.equal(0, server:stop())
  end)

  it("with logs costs the rest of the log, and neither build nor server", function()
    local server = on_small_disk "state"
    builds.run(server, { pipeline = "talk" }, "success", 60)
    assert.truthy(server:log():find('the build goes on without [^\n]*reason="No space left on device"'))
    assert.equal(200, server:get("/healthz").status)
    assert.equal(0, server:stop())
  end)
end)
