local fake_build = require "spec.support.fake_build"
local fake_buildq = require "spec.support.fake_buildq"

local COMMIT <const> = ("c"):rep(40)
local buildq, pipeline

before_each(function()
  buildq = fake_buildq.install(fake_buildq.new())
  pipeline = dofile("scripts/pipelines/honua-server.lua")
end)

after_each(fake_buildq.remove)

local function new_build(manifest, fields)
  fields = fields or {}
  manifest.name = manifest.name or "acme"
  fields.manifest = manifest
  local build = fake_build.new(buildq, fields)
  build.on_exec["init --quiet"] = function() buildq.fs.mkdir("source/.git") return 0 end
  build.on_exec["rev-parse HEAD"] = COMMIT .. "\n"
  build.on_exec["log -1 --format=%ct"] = "1700000000\n"
  build.on_exec["--version"] = "tool 1.2\nmore\n"
  build.on_exec["nproc"] = "3\n"
  build.on_exec["make --question"] = 2
  build.on_exec["find . "] = "./server\0./lib/a.so\0"
  buildq.fs.write("source/server", "binary")
  buildq.fs.write("source/lib/a.so", "library")
  return build
end

local REMOTE <const> = { repository = "https://git.example.org/a.git", ref = "v1" }

describe("the pipeline honua-server", function()
  it("has five steps at the percentages that its users know", function()
    local build = new_build { source = REMOTE, build = { system = "make" } }
    assert.is_true(build:go(pipeline))
    assert.same({
      { name = "Cloning repositories", at = 10 }, { name = "Generating solution", at = 30 },
      { name = "Building for target platforms", at = 50 }, { name = "Packaging artifacts", at = 80 },
      { name = "Publishing to registry", at = 95 },
    }, build.steps)
  end)

  it("fetches one commit of a repository, with no one asked for a password", function()
    local build = new_build { source = REMOTE, build = { system = "make" } }
    assert.is_true(build:go(pipeline))
    local fetch = build:command("fetch")
    assert.matches("%-%-depth=1 origin v1$", fetch.line)
    assert.equal("0", fetch.options.env.GIT_TERMINAL_PROMPT)
    assert.is_nil(fetch.options.env.GIT_ALLOW_PROTOCOL:find("ext", 1, true))
    assert.matches("remote add %-%- origin https://git.example.org/a.git$", build:command("remote add").line)
  end)

  it("fetches everything when one commit can't be had, and then finds the reference", function()
    local build = new_build { source = REMOTE, build = { system = "make" } }
    build.on_exec["--depth=1"] = 1
    build.on_exec["refs/remotes/origin/v1^{commit}"] = 1
    build.on_exec["--verify v1^{commit}"] = COMMIT
    assert.is_true(build:go(pipeline))
    assert.matches(COMMIT .. "$", build:command("checkout").line)
  end)

  it("fails for good when there is no such reference", function()
    local build = new_build { source = REMOTE, build = { system = "make" } }
    build.on_exec["--depth=1"] = 1
    build.on_exec["--verify"] = 1
    assert.is_false(build:go(pipeline))
    assert.is_false(build.failure.retry)
    assert.matches("v1", build.failure.message)
  end)

  it("packages with fixed times and registers archive, sums and manifest", function()
    local build = new_build { source = REMOTE, build = { system = "make" } }
    assert.is_true(build:go(pipeline))
    assert.same({
      { path = "package/acme-linux-x64.tar.zst", kind = "archive" },
      { path = "package/SHA256SUMS", kind = "checksums" },
      { path = "package/manifest.json", kind = "manifest" },
    }, build.artifacts)
    assert.equal("acme-linux-x64", buildq.packed[1].prefix)
    assert.matches("^" .. ("a"):rep(64) .. "  acme%-linux%-x64%.tar%.zst\n%x+  manifest%.json\n$",
      buildq.files["package/SHA256SUMS"])
  end)

  it("says where it came from", function()
    local build = new_build { source = REMOTE, build = { system = "make", targets = { "all" } } }
    assert.is_true(build:go(pipeline))
    local provenance = build.results[1].provenance
    assert.equal(COMMIT, provenance.source.commit)
    assert.same({ gcc = "tool 1.2", make = "tool 1.2", git = "tool 1.2" }, provenance.tools)
    assert.equal("make -j3 all", provenance.commands[1])
    assert.equal("1700000000", provenance.environment.SOURCE_DATE_EPOCH)
    assert.equal("1700000000", build:command("make -j3").options.env.SOURCE_DATE_EPOCH)
  end)

  it("takes nothing of a name into a path", function()
    local build = new_build({ name = "../../etc/x y", source = REMOTE, build = { system = "make" } })
    assert.is_true(build:go(pipeline))
    assert.equal("package/etc-x-y-linux-x64.tar.zst", build.artifacts[1].path)
  end)

  it("runs make's install rule when the output is empty, and only when there is one", function()
    local build = new_build { source = REMOTE, build = { system = "make" } }
    assert.is_true(build:go(pipeline))
    assert.is_nil(build:command("make install"))
    assert.equal("binary", buildq.files["output/server"])
    assert.equal("library", buildq.files["output/lib/a.so"])

    build = new_build { source = REMOTE, build = { system = "make" } }
    buildq.fs.remove("output")
    build.on_exec["make --question"] = 1
    build.on_exec["make install"] = function() buildq.fs.write("output/usr/bin/server", "binary") return 0 end
    assert.is_true(build:go(pipeline))
    assert.matches("DESTDIR=/w/output", build:command("make install").line)
    assert.is_nil(build:command("find . "))
  end)

  it("generates, builds and installs with cmake", function()
    local build = new_build { source = REMOTE, build = { system = "cmake", targets = { "server", "tests" } } }
    buildq.fs.write("source/build-cmake/cmake_install.cmake", "")
    assert.is_true(build:go(pipeline))
    local _, generate = build:command("cmake -S . -B build-cmake")
    local _, compile = build:command("cmake --build build-cmake --parallel 3 --target server tests")
    local _, install = build:command("cmake --install build-cmake --prefix /w/output/usr")
    assert.is_true(generate < compile and compile < install)
  end)

  it("runs commands as argument lists, and lines in a shell", function()
    local build = new_build {
      source = { path = "tree" },
      build = { system = "command", commands = { "cc a.c && ./a.out", { "cp", "a b", "c" } } },
    }
    assert.is_true(build:go(pipeline))
    assert.same({ "/bin/sh", "-e", "-c", "cc a.c && ./a.out" }, build:command("cc a.c").options.argv)
    local copy = build:command("cp a b c").options
    assert.equal(3, #copy.argv)
    assert.equal("/w/output", copy.env.OUTPUT)
  end)

  it("builds a path as it lies there, and fetches from a bundle", function()
    local build = new_build { source = { path = "tree" }, build = { system = "make" } }
    assert.is_true(build:go(pipeline))
    assert.same({ "tree" }, build.imports)
    assert.is_nil(build:command("fetch"))
    assert.is_nil(build.results[1].provenance.source.commit)

    build = new_build { source = { repository = "file:///m/a.bundle" }, build = { system = "make" } }
    assert.is_true(build:go(pipeline))
    assert.same({ "/m/a.bundle" }, build.imports)
    assert.matches("fetch %-%-quiet %-%-no%-tags origin HEAD$", build:command("fetch").line)
    assert.matches("origin /w/import$", build:command("remote add").line)
  end)

  it("builds in a directory of the repository", function()
    local source = { repository = REMOTE.repository, path = "service" }
    local build = new_build { source = source, build = { system = "make" } }
    assert.is_false(build:go(pipeline))
    assert.matches("no directory service", build.failure.message)
    build = new_build { source = source, build = { system = "make" } }
    buildq.fs.write("source/service/Makefile", "all:")
    build:go(pipeline)
    assert.equal("source/service", build:command("make -j3").options.cwd)
  end)

  it("fails for good on a manifest that may not do what it asks", function()
    for _, manifest in ipairs {
      { source = { path = "tree" }, build = { system = "make" } },
      { source = REMOTE, build = { system = "command", commands = { "id" } } },
    } do
      local build = new_build(manifest, { manifest_trusted = false })
      assert.is_false(build:go(pipeline))
      assert.is_false(build.failure.retry)
      assert.same({}, build.commands)
      assert.same({}, build.imports)
    end
  end)

  it("fails for good when there is nothing to build, or nothing was built", function()
    local build = new_build {}
    assert.is_false(build:go(pipeline))
    assert.matches("nothing to build", build.failure.message)
    build = new_build { source = REMOTE, build = { system = "make" } }
    build.on_exec["find . "] = ""
    assert.is_false(build:go(pipeline))
    assert.matches("nothing to package", build.failure.message)
    assert.is_false(build.failure.retry)
  end)

  it("takes the product's source and build when the manifest names none", function()
    local product = require "product"
    product.source, product.build = { path = "product" }, { system = "command", commands = { "./make-it" } }
    local build = new_build({}, { manifest_trusted = false }) -- it is the team's own word that counts here
    assert.is_true(build:go(pipeline))
    assert.same({ "product" }, build.imports)
    assert.is_table(build:command("./make-it"))
  end)

  it("passes a failing compiler on as an error, which is tried again", function()
    local build = new_build { source = REMOTE, build = { system = "make" } }
    build.on_exec["make -j3"] = 2
    local ok, message = build:go(pipeline)
    assert.is_false(ok)
    assert.matches("exit code 2", message)
    assert.is_nil(build.failure)
    assert.same({}, build.artifacts)
  end)

  it("names in the log what nothing acts on", function()
    local build = new_build { source = REMOTE, build = { system = "make" }, modules = { "OData" } }
    assert.is_true(build:go(pipeline))
    assert.matches("^warning: %$%.modules", build.lines[1])
  end)

  it("checks itself", function()
    assert.has_no.errors(pipeline.check)
    require("toolchain").systems.cmake = nil
    assert.has_error(pipeline.check)
  end)
end)
