-- The shipped pipeline honua-server, in the real runtime: its files are real, its commands are answered here.
local process = require "spec.support.process"
local test = require "buildq.test"

local COMMIT <const> = ("c"):rep(40)
local REMOTE <const> = { repository = "https://git.example.org/a.git", ref = "v1" }
local WORDS_OF_GIT <const> = "git -c advice.detachedHead=false"

before_each(function()
  local exec = test.exec
  exec:on("", 0)
  exec:on("init --quiet", { files = {
    ["source/.git/HEAD"] = "ref", ["source/server"] = "binary", ["source/lib/a.so"] = "library",
  } })
  exec:on("rev-parse HEAD", COMMIT .. "\n")
  exec:on("rev-parse --quiet --verify", COMMIT .. "\n")
  exec:on("log -1 --format=%ct", "1700000000\n")
  exec:on("--version", "tool 1.2\nmore\n")
  exec:on("nproc", "3\n")
  exec:on("make --question", 2)
  exec:on("find . ", "./server\0./lib/a.so\0")
end)

local function run(manifest, fields)
  local build = { manifest = { name = manifest.name or "acme" } }
  for name, value in pairs(manifest) do build.manifest[name] = value end
  for name, value in pairs(fields or {}) do build[name] = value end
  return test.run("honua-server", build)
end

local function packed(result)
  local archive = result.output .. "/" .. result.artifacts[1].name
  local names = {}
  for name in process.check({ "tar", "--zstd", "-tf", archive }):gmatch "[^\n]+" do
    if not name:find "/$" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

describe("the pipeline honua-server", function()
  it("has five steps at the percentages that its users know", function()
    local result = run { source = REMOTE, build = { system = "make" } }
    assert.build_succeeded(result)
    assert.same({
      { name = "Cloning repositories", percent = 10 }, { name = "Generating solution", percent = 30 },
      { name = "Building for target platforms", percent = 50 }, { name = "Packaging artifacts", percent = 80 },
      { name = "Publishing to registry", percent = 95 },
    }, result.steps)
  end)

  it("fetches into a mirror that builds share, and takes one commit of it, with no one asked for a password", function()
    assert.build_succeeded(run { source = REMOTE, build = { system = "make" } })
    local fetch, at = test.exec:find "fetch --quiet --prune"
    assert.matches("^flock %-%-exclusive", fetch.line)
    assert.matches("%-%-end%-of%-options https://git.example.org/a.git %+refs/heads/%*:refs/heads/%*", fetch.line)
    assert.equal("0", fetch.env.GIT_TERMINAL_PROMPT)
    assert.is_nil(fetch.env.GIT_ALLOW_PROTOCOL:find("ext", 1, true))
    local taken, later = test.exec:find "fetch --quiet --no-tags --depth=1"
    assert.matches("file:///.*/shared/git/%x+ " .. COMMIT .. "$", taken.line)
    assert.is_true(at < later)
    assert.matches(COMMIT .. "$", test.exec:find("checkout").line)
  end)

  it("fails for good when there is no such reference, and not when the network is away", function()
    test.exec:on("rev-parse --quiet --verify", 1)
    local result = run { source = REMOTE, build = { system = "make" } }
    assert.build_failed(result, "the reference v1 is not in")
    assert.is_false(result.retryable)
    test.exec:on("fetch --quiet --prune", { code = 128, output = "fatal: unable to access: Could not resolve host" })
    result = run { source = REMOTE, build = { system = "make" } }
    assert.build_failed(result, "can't be fetched: .*resolve host")
    assert.is_true(result.retryable)
    test.exec:on("fetch --quiet --prune", { code = 128, output = "fatal: Authentication failed for 'https://…'" })
    assert.is_false(run({ source = REMOTE, build = { system = "make" } }).retryable)
  end)

  it("packages with fixed times and registers archive, sums and manifest", function()
    local result = run { source = REMOTE, build = { system = "make" } }
    assert.build_succeeded(result)
    local kinds = {}
    for _, artifact in ipairs(result.artifacts) do kinds[artifact.name] = artifact.kind end
    assert.equal("archive", kinds["acme-linux-x64.tar.zst"])
    assert.equal("sbom", kinds["acme-linux-x64.cdx.json"])
    assert.equal("checksums", kinds.SHA256SUMS)
    assert.equal("manifest", kinds["manifest.json"])
    assert.same({ "acme-linux-x64/lib/a.so", "acme-linux-x64/server" }, packed(result))
    assert.matches("^%x+  acme%-linux%-x64%.tar%.zst\n%x+  acme%-linux%-x64%.cdx%.json\n%x+  manifest%.json\n$",
      result:read "SHA256SUMS")
    -- The same input gives the same bytes.
    assert.equal(result.artifacts[1].sha256, run({ source = REMOTE, build = { system = "make" } }).artifacts[1].sha256)
  end)

  it("says where it came from", function()
    local result = run { source = REMOTE, build = { system = "make", targets = { "all" } } }
    assert.build_succeeded(result)
    local provenance = result.provenance
    assert.equal(COMMIT, provenance.source.commit)
    assert.same({ gcc = "tool 1.2", make = "tool 1.2", git = "tool 1.2" }, provenance.tools)
    assert.equal("make -j3 all", provenance.commands[1])
    assert.equal("1700000000", provenance.environment.SOURCE_DATE_EPOCH)
    assert.equal("1700000000", test.exec:find("make -j3").env.SOURCE_DATE_EPOCH)
  end)

  it("takes nothing of a name into a path", function()
    assert.has_artifact(run { name = "../../etc/x y", source = REMOTE, build = { system = "make" } },
      "etc-x-y-linux-x64.tar.zst")
  end)

  it("takes what was built when there is no install rule", function()
    local result = run { source = REMOTE, build = { system = "make" } }
    assert.build_succeeded(result)
    assert.not_command_ran "make install"
    assert.equal("binary", result:file "output/server")
    assert.equal("library", result:file "output/lib/a.so")
  end)

  it("runs make's install rule when the output is empty, and there is one", function()
    test.exec:on("make --question", 1)
    test.exec:on("make install", { files = { ["output/usr/bin/server"] = "binary" } })
    local result = run { source = REMOTE, build = { system = "make" } }
    assert.build_succeeded(result)
    assert.matches("DESTDIR=" .. result.workspace .. "/output", test.exec:find("make install").line, 1, true)
    assert.not_command_ran "-newer"
    assert.same({ "acme-linux-x64/usr/bin/server" }, packed(result))
  end)

  it("generates, builds and installs with cmake", function()
    test.exec:on("cmake -S", { files = { ["source/build-cmake/cmake_install.cmake"] = "" } })
    local result = run { source = REMOTE, build = { system = "cmake", targets = { "server", "tests" } } }
    assert.build_succeeded(result)
    local _, generate = test.exec:find "cmake -S . -B build-cmake"
    local _, compile = test.exec:find "cmake --build build-cmake --parallel 3 --target server tests"
    local _, install = test.exec:find("cmake --install build-cmake --prefix " .. result.workspace .. "/output/usr")
    assert.is_true(generate < compile and compile < install)
  end)

  it("runs commands as argument lists, and lines in a shell", function()
    test.manifest("tree/server", "binary")
    local result = run {
      source = { path = "tree" },
      build = { system = "command", commands = { "cc a.c && ./a.out", { "cp", "a b", "c" } } },
    }
    assert.same({ "/bin/sh", "-e", "-c", "cc a.c && ./a.out" }, test.exec:find("cc a.c").argv)
    local copy = test.exec:find "cp a b c"
    assert.equal(3, #copy.argv)
    assert.equal(result.workspace .. "/output", copy.env.OUTPUT)
  end)

  it("builds a path as it lies there", function()
    test.manifest("tree/server", "binary")
    test.manifest("tree/lib/a.so", "library")
    local result = run { source = { path = "tree" }, build = { system = "make" } }
    assert.build_succeeded(result)
    assert.not_command_ran(WORDS_OF_GIT)
    assert.is_nil(result.provenance.source.commit)
    assert.equal("binary", result:file "source/server")
  end)

  it("fetches from a bundle", function()
    test.manifest("a.bundle", "a bundle")
    local directory = require("buildq.wire").hello().manifests
    local result = run { source = { repository = "file://" .. directory .. "/a.bundle" }, build = { system = "make" } }
    assert.build_succeeded(result)
    assert.matches("fetch %-%-quiet %-%-no%-tags origin HEAD$", test.exec:find("fetch").line)
    assert.matches("origin " .. result.workspace .. "/import", test.exec:find("remote add").line, 1, true)
  end)

  it("builds in a directory of the repository", function()
    local source = { repository = REMOTE.repository, path = "service" }
    assert.build_failed(run { source = source, build = { system = "make" } }, "no directory service")
    test.exec:on("init --quiet", { files = { ["source/.git/HEAD"] = "ref", ["source/service/server"] = "binary",
      ["source/service/lib/a.so"] = "library" } })
    local result = run { source = source, build = { system = "make" } }
    assert.build_succeeded(result)
    assert.equal(result.workspace .. "/source/service", test.exec:find("make -j3").cwd)
  end)

  it("fails for good on a manifest that may not do what it asks", function()
    for _, manifest in ipairs {
      { source = { path = "tree" }, build = { system = "make" } },
      { source = REMOTE, build = { system = "command", commands = { "id" } } },
    } do
      local result = run(manifest, { trusted = false })
      assert.build_failed(result, "the manifest has a fault")
      assert.is_false(result.retryable)
      assert.same({}, test.exec.calls)
    end
  end)

  it("fails for good when there is nothing to build, or nothing was built", function()
    assert.build_failed(run {}, "nothing to build")
    test.exec:on("find . ", "")
    local result = run { source = REMOTE, build = { system = "make" } }
    assert.build_failed(result, "nothing to package")
    assert.is_false(result.retryable)
  end)

  it("takes the product's source and build when the manifest names none", function()
    test.manifest("product/make-it", "#!/bin/sh")
    test.write("lib/product.lua", [[
      return { source = { path = "product" }, build = { system = "command", commands = { "./make-it" } } }]])
    test.exec:on("find . ", "./make-it\0")
    assert.build_succeeded(run({}, { trusted = false })) -- it is the team's own word that counts here
    assert.command_ran "./make-it"
  end)

  it("passes a failing compiler on as an error, which is tried again", function()
    test.exec:on("make -j3", 2)
    local result = run { source = REMOTE, build = { system = "make" } }
    assert.build_failed(result, "step Building for target platforms: make: exit code 2")
    assert.is_true(result.retryable)
    assert.is_nil(next(result.artifacts or {}))
  end)

  it("names in the log what nothing acts on", function()
    local result = run { source = REMOTE, build = { system = "make" }, modules = { "OData" } }
    assert.build_succeeded(result)
    assert.matches("warning: $.modules", result.log, 1, true)
  end)

  it("checks itself", function()
    test.write("lib/toolchain.lua", "return { systems = { make = {}, command = {}, dotnet = {} } }")
    local ok, fault = pcall(test.reload)
    assert.is_false(ok)
    assert.matches("no entry for the build system cmake", fault, 1, true)
  end)
end)
