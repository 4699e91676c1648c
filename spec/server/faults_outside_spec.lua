-- What goes wrong outside while the product is built, and cancels in each step: what is left behind after each.
local uv = require "luv"
local Forge = require "spec.support.forge"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local image = require "spec.support.image"
local process = require "spec.support.process"

local LARGE <const> = 1000000 -- bytes of a file that no compression makes smaller
local PROGRAM <const> = "server: server.c\n\t$(CC) -O2 -static -o $@ $<\ninstall: ; echo packing; sleep 300\n"
local CMAKE <const> = "cmake_minimum_required(VERSION 3.13)\nproject(slow NONE)\nmessage(NOTICE configuring)\n"
  .. "execute_process(COMMAND sleep 300)\n"

local forge, full, server

-- An image of two layers, so that with the product's own and the settings there are four blobs.
local function base_image(directory)
  local layout = image.base(directory .. "/base", { architecture = "amd64" })
  for _, name in ipairs { "one", "two" } do
    local file = directory .. "/" .. name
    process.write(file, name)
    process.check { "umoci", "insert", "--rootless", "--image", layout .. ":base", file, "/" .. name }
  end
  process.check { "chmod", "-R", "a+rX", layout }
  return layout
end

setup(function()
  forge = Forge.start()
  full = Forge.start { registry_bytes = 4096 } -- no layer fits
  forge:repository("public/daemon", "spec/fixtures/daemon")
  for _, name in ipairs { "public/large", "public/vanishing", "public/cloned" } do
    forge:repository(name, "spec/fixtures/daemon", function(tree)
      -- So many files that git keeps them as a pack.
      process.check { "sh", "-ec", 'head -c "$1" /dev/urandom >"$2/noise"; mkdir "$2/many"; '
        .. 'for i in $(seq 120); do echo "$i" >"$2/many/$i"; done', "sh", tostring(LARGE), tree }
    end)
  end
  forge:repository("public/slow", "spec/fixtures/daemon", function(tree)
    process.write(tree .. "/Makefile", PROGRAM)
    process.write(tree .. "/CMakeLists.txt", CMAKE)
  end)
  server = Server.new { config = {
    BuildQueue = { MaxRetryAttempts = 1, RetryDelayMinutes = 0, StopGraceSeconds = 1 },
  } }
  server.config.BuildQueue.TrustedCertificates = server.directory .. "/authorities.pem"
  server.config.BuildQueue.BaseImages = { ["linux-x64"] = base_image(server.directory) }
  process.write(server.directory .. "/authorities.pem",
    process.read(forge.certificate) .. process.read(full.certificate))
  server:write_config()
  server:launch()
end)

after_each(function() forge:fault() end)

local function order_of(repository, more, cloud)
  local all = { source = { repository = ("%s%s.git"):format(forge.git, repository), ref = "main" } }
  for name, value in pairs(more or {}) do all[name] = value end
  return forge:order(all, cloud)
end

local function pushed(name) return { registryUrl = ("%s/public/%s"):format(forge.registry, name) } end

local function count(text, pattern) return select(2, text:gsub(pattern, "")) end

-- What must hold whenever a build has ended in any way but success.
local function assert_left_nothing(id, status, attempts)
  local build = server:get("/builds/" .. id).json
  assert.equal(status, build.status)
  assert.equal(attempts, build.attempt)
  assert.equal(tostring(attempts), server:sql(("select count(*) from build_attempts where build_id = '%s'"):format(id)))
  assert.equal("t", server:sql(("select completed_at is not null and node_id is null from build_queue "
    .. "where id = '%s'"):format(id)))
  assert.equal(0, #server:get(("/builds/%s/artifacts"):format(id)).json.artifacts)
  for attempt = 1, attempts do
    server:wait_for(function() return not uv.fs_stat(builds.workspace(server, id, attempt)) end, 20)
    assert.not_equal("", builds.log(server, id, "?attempt=" .. attempt))
  end
  assert.equal("", process.run({ "pgrep", "-f", id }).output)
  assert.equal("", process.run({ "find", server.directory .. "/output/" .. id, "-type", "f" }).output)
  -- Nothing half is left in what builds share.
  assert.equal("", process.check { "find", server.directory .. "/state/shared", "-name", "*.lock" })
end

-- A mirror holds no more than what was fetched into it.
local function halves() return process.check { "find", server.directory .. "/state/shared", "-name", "tmp_*" } end

describe("a source", function()
  it("that nobody answers for is asked again; a reference that isn't there is not", function()
    forge:fault "gone"
    local build = builds.run(server, order_of "public/daemon", "failed", 60)
    assert.matches("can't be fetched", build.errorMessage)
    assert_left_nothing(build.id, "failed", 2)
    forge:fault()
    build = builds.run(server, order_of("public/daemon", { source = { repository = forge.git .. "public/daemon.git",
      ref = "nope" } }), "failed", 60)
    assert.matches("the reference nope is not in", build.errorMessage)
    assert_left_nothing(build.id, "failed", 1)
  end)

  it("that vanishes in the middle of a clone is asked again, and then is not there", function()
    forge:fault("vanish", "public/vanishing")
    local build = builds.run(server, order_of "public/vanishing", "failed", 60)
    assert.is_true(forge:hangs())
    local first, second = builds.log(server, build.id, "?attempt=1"), builds.log(server, build.id, "?attempt=2")
    assert.matches("can't be fetched", first)
    assert.is_nil(first:find("not found", 1, true))
    assert.matches("not found", second)
    assert.matches("can't be fetched: .*not found", build.errorMessage)
    assert_left_nothing(build.id, "failed", 2)
    assert.equal("", halves())
  end)
end)

describe("a registry", function()
  for _, kind in ipairs { "500", "third", "cut" } do
    it("that fails in passing (" .. kind .. ") costs no second compile", function()
      forge:fault(kind)
      local name = "fault-" .. kind
      local id = builds.submit(server, order_of("public/large", nil, pushed(name)))
      server:wait_for(function() return builds.log(server, id):find "failed, try 1 of 5" end, 60)
      if kind ~= "third" then assert.is_nil(forge:tags("public/" .. name)) end
      forge:fault()
      local build = builds.await(server, id, "success", 60)
      assert.equal(1, build.attempt)
      assert.equal(1, count(builds.log(server, id), "cc %-O2"))
      local found = forge:skopeo("inspect", "docker://" .. build.imageUrl)
      assert.equal(3, #require("dkjson").decode(found).Layers)
      assert.equal(1, #forge:tags("public/" .. name))
    end)
  end

  it("moves no tag that names another image", function()
    local function tag_of(build)
      return server:get(("/downloads/%s/build.json"):format(build.id)).json.provenance.images[1].tag
    end
    local one = forge:order({}, pushed "tags")
    local other = forge:order({ environmentVariables = { A = "1" } }, pushed "tags")
    local tag = tag_of(builds.run(server, one, "success", 60))
    local reference = ("docker://%s/public/tags:"):format(forge.registry)
    local others = tag_of(builds.run(server, other, "success", 60))
    assert.not_equal(tag, others)
    forge:skopeo("copy", "--quiet", reference .. others, reference .. tag)
    local build = builds.run(server, one, "failed", 60)
    assert.matches("names another image already", build.errorMessage)
    assert_left_nothing(build.id, "failed", 1)
  end)
end)

describe("a cancel", function()
  local STEPS <const> = {
    cloning = { repository = "public/cloned", fault = "hang", step = "Cloning repositories" },
    generating = { repository = "public/slow", build = { system = "cmake" }, log = "configuring",
      step = "Generating solution" },
    building = { build = { system = "make", targets = { "slow" } }, log = "sleep 300",
      step = "Building for target platforms" },
    packaging = { repository = "public/slow", log = "packing", step = "Packaging artifacts" },
    publishing = { fault = "500", log = "failed, try 1 of 5", step = "Publishing to registry" },
  }
  for name, case in pairs(STEPS) do
    it("while " .. name .. " leaves nothing behind", function()
      forge:fault(case.fault)
      local place = "cancelled-" .. name
      local repository = case.repository or "public/daemon"
      local id = builds.submit(server, order_of(repository, { build = case.build }, pushed(place)))
      server:wait_for(function()
        if not case.log then return forge:hangs() end
        return builds.log(server, id):find(case.log, 1, true)
      end, 60)
      server:wait_for(function() return server:get("/builds/" .. id).json.currentStep == case.step end, 10)
      assert.equal(202, server:post(("/builds/%s/cancel"):format(id)).status)
      builds.await(server, id, "cancelled", 30)
      assert_left_nothing(id, "cancelled", 1)
      assert.is_nil(forge:tags("public/" .. place))
      if name == "cloning" then -- the next build has no use for what came of the pack, and removes it
        assert.matches("tmp_pack", halves())
        forge:fault()
        builds.run(server, order_of "public/cloned", "success", 60)
        assert.equal("", halves())
      end
    end)
  end
end)

describe("a full registry", function()
  it("fails the build, and leaves what another has taken", function()
    server.config.BuildQueue.MaxRetryAttempts = 0
    server:write_config()
    server:kill "sighup"
    -- What is pushed first has the lower name.
    local body = forge:order({}, { registryUrl = forge.registry:gsub("localhost", "127.0.0.1") .. "/public/beside" })
    body.manifest.cloudTargets[2] = { provider = "gcp", registryUrl = full.registry .. "/public/daemon" }
    local id = builds.submit(server, body)
    local build = builds.await(server, id, "failed", 90)
    assert.matches("can't be pushed", build.errorMessage)
    assert.matches("try 4 of 5; again in 8 s", builds.log(server, id))
    assert.is_nil(full:tags "public/daemon")
    assert.equal(1, #forge:tags "public/beside")
    assert_left_nothing(id, "failed", 1)
  end)
end)
