-- Real sources, real compilers: what comes out is downloaded, verified, unpacked and run. And what pipelines are given.
local uv = require "luv"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local server, trees, commit

local HELLO_C <const> = [[
#include <stdio.h>
int main(void) { puts("hello from " WHO); return 0; }
]]
local MAKEFILE <const> = "hello: hello.c\n\t$(CC) -DWHO='\"make\"' -o $@ $<\n"
  .. "install: hello\n\tinstall -D hello $(DESTDIR)$(PREFIX)/bin/hello\n"
local CMAKE <const> = [[
cmake_minimum_required(VERSION 3.13)
project(hello C)
add_executable(hello hello.c)
target_compile_definitions(hello PRIVATE WHO="cmake")
install(TARGETS hello DESTINATION bin)
]]

-- Each is a pipeline of these lines; they raise what is not as it should be.
local LINES <const> = {
  all = [[
    local began = buildq.clock.monotonic()
    local results = build:all({
      function() buildq.sleep(0.4) return "one" end,
      function() build:exec { argv = { "sleep", "0.4" } } return "two" end,
      function() buildq.sleep(0.4) return "three" end })
    local took = buildq.clock.monotonic() - began
    assert(table.concat(results, " ") == "one two three")
    assert(took < 1.1, "side by side it took " .. took)
    local running, most = 0, 0
    local list = {}
    for i = 1, 9 do
      list[i] = function()
        running = running + 1
        most = math.max(most, running)
        buildq.sleep(0.02)
        running = running - 1
        return i
      end
    end
    assert(#build:all(list, { limit = 3 }) == 9 and most == 3, "most " .. most)
    local after = false
    began = buildq.clock.monotonic()
    local ok, err = pcall(build.all, build, {
      function() build:exec { argv = { "sleep", "60" } } after = true end,
      function() buildq.sleep(0.05) error "the second" end })
    assert(not ok and tostring(err):find "the second" and not after, tostring(err))
    assert(buildq.clock.monotonic() - began < 15, "the others were not ended")]],
  exec = [[
    local result = build:exec { argv = { "sh", "-c", "cat; echo to-stderr >&2; exit 7" }, stdin = "given\n",
      capture = true, check = false }
    assert(result.code == 7 and result.output == "given\n" and #result.lines == 2 and result.duration > 0)
    assert(build:exec({ argv = { "echo", "$HOME", "a b", "*" }, capture = true }).output == "$HOME a b *\n")
    assert(build:exec({ shell = "echo $GREETING", env = { GREETING = "hi" }, capture = true }).output == "hi\n")
    fs.mkdir "deep/er"
    assert(build:exec({ argv = { "pwd" }, cwd = "deep/er", capture = true }).output == build.workspace .. "/deep/er\n")
    assert(build:exec({ shell = "kill -9 $$", check = false }).code == 137)
    local function kind(options)
      local ok, err = pcall(build.exec, build, options)
      assert(not ok)
      return err.kind, err.message
    end
    local began = buildq.clock.monotonic()
    assert(kind { argv = { "sleep", "60" }, timeout = 0.2 } == "timeout")
    assert(buildq.clock.monotonic() - began < 15)
    assert(kind { argv = { "head", "-c", "3000000", "/dev/zero" }, capture = true } == "limit")
    assert(kind { argv = {} } == "invalid")
    assert(kind { argv = { "pwd" }, cwd = "../.." } == "invalid")
    local what, message = kind { shell = "echo first; echo the last words; exit 3" }
    assert(what == "script" and message:find "exit code 3" and message:find "the last words", message)
    assert(build:exec({ argv = { "no-such-program" }, check = false }).code == 127)]],
  fs = [[
    fs.mkdir "a/b"
    fs.write("a/b/c.txt", "text")
    fs.append("a/b/c.txt", " more")
    assert(fs.read "a/b/c.txt" == "text more" and fs.exists "a/b" and not fs.exists "nope")
    assert(fs.stat("a/b/c.txt").size == 9 and fs.stat("a").type == "directory" and fs.stat "nope" == nil)
    fs.copy("a", "copy")
    fs.move("copy/b/c.txt", "moved.txt")
    assert(table.concat(fs.list "copy/b", " ") == "" and fs.read "moved.txt" == "text more")
    assert(table.concat(fs.glob "**/*.txt", " ") == "a/b/c.txt moved.txt")
    fs.remove "a"
    assert(not fs.exists "a")
    assert(fs.sha256 "moved.txt" == buildq.sha256 "text more")
    build:exec { shell = "ln -s /etc out; ln -s /etc/passwd passwd; mkdir in; echo x > in/x; ln -s in inner" }
    for _, path in ipairs { "../x", "/etc/passwd", "out/passwd", "passwd", "in/../../x" } do
      local ok, err = pcall(fs.read, path)
      assert(not ok and err.kind == "invalid", path .. ": " .. tostring(err))
      ok = pcall(fs.write, path == "passwd" and "out/new" or path, "x")
      assert(not ok, path)
    end
    fs.remove "out"
    local ok, err = pcall(fs.read, "missing")
    assert(not ok and err.kind == "not_found")]],
  archive = [[
    fs.mkdir "in"
    fs.write("in/b.txt", "b")
    fs.write("in/a.txt", "a")
    build:exec { shell = "ln -s a.txt in/link; chmod 755 in/b.txt" }
    for _, form in ipairs { "tar.zst", "tar.gz" } do
      local one = archive.pack { dir = "in", to = "one." .. form, prefix = "p" }
      build:exec { shell = "touch -d 2001-01-01 in/a.txt; cp -a in in2; rm -rf in; mv in2 in" }
      local two = archive.pack { dir = "in", to = "two." .. form, prefix = "p" }
      assert(one.sha256 == two.sha256 and one.size == fs.stat("one." .. form).size, form)
      local listing = build:exec({ argv = { "tar", "--numeric-owner", "-tvf", "one." .. form }, capture = true }).output
      assert(listing:find "0/0" and listing:find "p/a.txt" and listing:find "link %-> a.txt", listing)
      local out = archive.unpack { from = "one." .. form, to = "out-" .. form, strip = 1 }
      assert(out.files >= 2 and fs.read("out-" .. form .. "/b.txt") == "b")
    end
    build:exec { shell = "mkdir evil; touch evil/x; tar -cPf up.tar --transform='s,evil,../evil,' evil/x" }
    build:exec { shell = "gzip up.tar; ln -s /tmp evil/link" }
    local ok = pcall(archive.unpack, { from = "up.tar.gz", to = "evil-out" })
    assert(not ok, "an entry with .. was unpacked")
    ok = pcall(archive.unpack, { from = "one.tar.gz", to = "../evil-out" })
    assert(not ok)
    local err
    ok, err = pcall(archive.unpack, { from = "one.tar.gz", to = "small", max_bytes = 1 })
    assert(not ok and err.kind == "limit", tostring(err))]],
  artifacts = [[
    fs.write("a.txt", "artifact")
    local entry = build:artifact("a.txt", { name = "renamed.txt", kind = "note" })
    assert(entry.name == "renamed.txt" and entry.size == 8 and entry.sha256 == buildq.sha256 "artifact")
    assert(not pcall(build.artifact, build, "a.txt", { name = "renamed.txt" }))
    assert(not pcall(build.artifact, build, "missing.txt"))
    build:exec { shell = "ln -s /etc/passwd link.txt" }
    for _, path in ipairs { "link.txt", "../x.txt", "/etc/passwd" } do
      assert(not pcall(build.artifact, build, path), path)
    end
    for _, name in ipairs { "../x", "a/b", ".hidden", "-x", "" } do
      assert(not pcall(build.artifact, build, "a.txt", { name = name }), name)
    end]],
  import = [[
    assert(build:import("make", "tree") == "directory" and fs.exists "tree/hello.c")
    assert(build:import("form.json", "copied.json") == "file")
    for _, path in ipairs { "../appsettings.json", "/etc/passwd", "out-link" } do
      local ok, err = pcall(build.import, build, path, "stolen")
      assert(not ok and err.kind == "invalid", path .. ": " .. tostring(err))
    end
    local ok, err = pcall(build.import, build, "nope", "stolen")
    assert(not ok and err.kind == "not_found", tostring(err))
    ok = pcall(build.import, build, "make", "../../stolen")
    assert(not ok)]],
  http = [[
    local url = build.config.ServerUrl
    local answer = http.request { method = "POST", url = url .. "/spec-echo", body = '{"a":1}',
      headers = { ["content-type"] = "application/json", ["x-spec"] = "header" } }
    local heard = json.decode(answer.body)
    assert(answer.status == 201 and heard.body == '{"a":1}' and heard.spec == "header", answer.body)
    assert(http.request({ url = url .. "/nope" }).status == 404)
    local ok, err = pcall(http.request, { url = "http://127.0.0.1:1/" })
    assert(not ok and err.kind == "unavailable", tostring(err))
    ok, err = pcall(http.request, { url = url .. "/metrics", max_bytes = 10 })
    assert(not ok and err.kind == "limit", tostring(err))
    ok, err = pcall(http.request, { url = url .. "/spec-slow", timeout = 0.2 })
    assert(not ok and err.kind == "timeout", tostring(err))
    ok, err = pcall(http.request, { url = "file:///etc/passwd" })
    assert(not ok and err.kind == "invalid", tostring(err))]],
  db = [[
    local rows = db.query("select $1::text as text, $2::bigint as big, $3::jsonb as doc, $4::text as nothing, true yes",
      "'; drop table build_queue; --", 9007199254740993, { list = { 1, 2 } }, json.null)
    assert(#rows == 1)
    assert(rows[1].text == "'; drop table build_queue; --" and rows[1].big == 9007199254740993, tostring(rows[1].big))
    assert(rows[1].doc.list[2] == 2 and rows[1].nothing == json.null and rows[1].yes == true)
    db.query "create table if not exists spec_rows (n integer primary key)"
    local _, affected = db.query("insert into spec_rows select generate_series(1, $1::integer)", 3)
    assert(affected == 3, tostring(affected))
    assert(#db.query "select n from spec_rows" == 3)
    local ok, err = pcall(db.query, "insert into spec_rows values ($1::integer)", 1)
    assert(not ok and err.kind == "database" and err.sqlstate == "23505", tostring(err))
    ok, err = pcall(db.query, "select pg_sleep(30)")
    assert(not ok and (err.kind == "timeout" or err.sqlstate == "57014"), tostring(err))
    ok, err = pcall(db.query, "select generate_series(1, 20000)")
    assert(not ok and err.kind == "limit", tostring(err))
    ok = pcall(db.query, "select 1; select 2")
    assert(not ok, "two statements in one")]],
  fields = [[
    assert(build.id:find "^%x+%-" and build.attempt == 1 and build.tier == "pro" and build.cloud == "aws")
    assert(build.architecture == "linux-x64" and build.customer.id == "c1" and build.configuration == "main")
    assert(build.customer.email == "c1@example.org" and build.metadata.team == "a" and #build.generation == 64)
    assert(build.manifest.version == "1.0" and build.manifest.modules[1] == "core" and not build.manifest_trusted)
    assert(json.encode(build.manifest.tags) == "[]" and build.pipeline == "spec-fields")
    assert(build.config.MaxConcurrentBuilds == 2)
    assert(io == nil and os.execute == nil and os.getenv == nil and debug == nil and package == nil and dofile == nil)
    assert(string.dump == nil and not pcall(load, "\27LuaT", "chunk", "b"))
    build:progress(42, "half way")
    build:result { imageUrl = "registry.example.org/a:1" }]],
  defer = [[
    build:defer(function() build:log "deferred first" build:exec { argv = { "echo", "a command at the end" } } end)
    build:defer(function() build:log "deferred last" error "in a deferred function" end)
    build:defer(function() build:log("exists " .. tostring(fs.exists "kept")) end)
    fs.write("kept", "")
    if build.metadata.fail then build:fail("on purpose", { retry = false }) end
    build:exec { argv = { "sleep", "60" } }]],
}

local HEAD <const> = [[
local buildq = require "buildq"
local fs, archive, http, db, json = buildq.fs, buildq.archive, buildq.http, buildq.db, buildq.json
return { run = function(build)
local _ = fs, archive, http, db, json
]]

local function git(directory, ...)
  return process.check({ "git", ... }, { cwd = directory, env = {
    PATH = os.getenv "PATH", HOME = directory, GIT_CONFIG_NOSYSTEM = "1",
    GIT_AUTHOR_NAME = "A", GIT_COMMITTER_NAME = "A",
    GIT_AUTHOR_EMAIL = "a@example.org", GIT_COMMITTER_EMAIL = "a@example.org",
    GIT_AUTHOR_DATE = "2024-05-06T07:08:09Z", GIT_COMMITTER_DATE = "2024-05-06T07:08:09Z" } })
end

local function write(path, text)
  process.check { "mkdir", "-p", (path:match "^(.*)/") }
  process.write(path, text)
end

local function manifest(source, build)
  return { version = "1.0", name = "hello", tier = "pro", architecture = "linux-x64",
    cloudTargets = { { provider = "aws" } }, source = source, build = build }
end

setup(function()
  local scripts = {
    ["routes/spec.lua"] = [[
      local buildq = require "buildq"
      return {
        { method = "POST", path = "/spec-echo", handle = function(request)
          return { status = 201, json = { body = request.body, spec = request.headers["x-spec"] } } end },
        { method = "GET", path = "/spec-slow", handle = function() buildq.sleep(5) return { body = "" } end },
      }]],
  }
  for name, lines in pairs(LINES) do scripts[("pipelines/spec-%s.lua"):format(name)] = HEAD .. lines .. "\nend }\n" end
  server = Server.new {
    config = { BuildQueue = { MaxConcurrentBuilds = 2, MaxRetryAttempts = 0, ScriptStatementTimeoutSeconds = 1,
      StopGraceSeconds = 2, GracefulShutdownTimeoutSeconds = 1 } },
    scripts = builds.scripts(scripts),
  }
  trees = server.directory .. "/manifests"
  write(trees .. "/make/hello.c", HELLO_C)
  write(trees .. "/make/Makefile", MAKEFILE)
  git(trees .. "/make", "init", "-q", "-b", "main")
  git(trees .. "/make", "add", ".")
  git(trees .. "/make", "commit", "-q", "-m", "first")
  commit = git(trees .. "/make", "rev-parse", "HEAD")
  git(trees .. "/make", "checkout", "-q", "-b", "side")
  write(trees .. "/make/sub/hello.c", HELLO_C)
  write(trees .. "/make/sub/Makefile", (MAKEFILE:gsub('"make"', '"side"')))
  git(trees .. "/make", "add", ".")
  git(trees .. "/make", "commit", "-q", "-m", "side")
  git(trees .. "/make", "checkout", "-q", "main")
  git(trees .. "/make", "bundle", "create", "-q", trees .. "/make.bundle", "--all")
  write(trees .. "/cmake/CMakeLists.txt", CMAKE)
  write(trees .. "/cmake/hello.c", HELLO_C)
  assert(uv.fs_symlink("/etc", trees .. "/out-link"))
  local bundle = { repository = "make.bundle", ref = "main" }
  local forms = {
    form = manifest(bundle, { system = "make" }),
    ["make-bundle"] = manifest(bundle, { system = "make" }),
    ["make-directory"] = manifest({ path = "make" }, { system = "make", targets = { "hello" } }),
    ["make-side"] = manifest({ repository = "make.bundle", ref = "side", path = "sub" }, { system = "make" }),
    ["cmake-directory"] = manifest({ path = "cmake" }, { system = "cmake" }),
    ["command-file"] = manifest({ repository = "file://" .. trees .. "/make", ref = commit }, {
      system = "command",
      commands = { { "cc", "-DWHO=\"command\"", "-o", "hello", "hello.c" },
        'mkdir -p "$OUTPUT/bin" && cp hello "$OUTPUT/bin"' },
    }),
    ["no-ref"] = manifest({ repository = "make.bundle", ref = "nope" }, { system = "make" }),
    broken = manifest({ path = "broken" }, { system = "make" }),
    nothing = manifest({ path = "make" }, { system = "command", commands = { "true" } }),
    outside = manifest({ path = "out-link" }, { system = "make" }),
  }
  write(trees .. "/broken/hello.c", "int main(void) { return undeclared_thing; }\n")
  write(trees .. "/broken/Makefile", MAKEFILE)
  for name, form in pairs(forms) do write(trees .. "/" .. name .. ".json", require("dkjson").encode(form)) end
  local user = process.ordinary_user()
  if user then process.check { "chown", "-R", user.name .. ":", trees } end
  server:launch()
end)

teardown(function()
  if server then server:stop() end
end)

local function run(name, status, more)
  local all = { manifestPath = name .. ".json", pipeline = "honua-server" }
  for key, value in pairs(more or {}) do all[key] = value end
  return builds.run(server, all, status, 90)
end

-- Downloads all artifacts of a build, verifies the sums, unpacks the archive; returns the directory and the archive.
local function fetch(build)
  local directory = process.directory()
  local archive
  for _, artifact in ipairs(server:get(("/builds/%s/artifacts"):format(build.id)).json.artifacts) do
    process.write(directory .. "/" .. artifact.name, server:get(artifact.url).body)
    if artifact.kind == "archive" then archive = artifact.name end
  end
  local sums = process.check({ "sha256sum", "--strict", "-c", "SHA256SUMS" }, { cwd = directory })
  assert.truthy(sums:find(archive .. ": OK", 1, true) and sums:find("manifest.json: OK", 1, true), sums)
  process.check({ "tar", "--zstd", "-xf", archive }, { cwd = directory })
  return directory, directory .. "/" .. archive
end

local function hello(directory, path) return process.check { directory .. "/hello-linux-x64/" .. path } end

describe("the pipeline honua-server", function()
  it("builds a git bundle with make; the archive can be verified, unpacked and run", function()
    local build = run "make-bundle"
    assert.same({ 100, "Build complete" }, { build.progressPercent, build.currentStep })
    assert.equal(("http://%s/downloads/%s/hello-linux-x64.tar.zst"):format(server.address, build.id), build.downloadUrl)
    assert.equal(("%s/output/%s/attempt-1"):format(server.directory, build.id), build.outputPath)
    local directory = fetch(build)
    assert.equal("hello from make", hello(directory, "usr/bin/hello"))
    local log, at = builds.log(server, build.id), 0
    for _, step in ipairs { "Cloning repositories", "Generating solution", "Building for target platforms",
      "Packaging artifacts", "Publishing to registry" } do
      at = assert(log:find("step: " .. step, at, true), step)
    end
    -- What a half-done publication would leave is not there, and the workspace is gone.
    assert.equal("attempt-1", process.check { "ls", "-A", server.directory .. "/output/" .. build.id })
    server:wait_for(function() return not uv.fs_stat(server.directory .. "/builds/" .. build.id) end, 10)
  end)

  it("says in build.json what was built, with what, and how", function()
    local build = run "make-bundle"
    local told = server:get(("/downloads/%s/build.json"):format(build.id)).json
    assert.equal(commit, told.provenance.source.commit)
    assert.same({ "make.bundle", "main" }, { told.provenance.source.repository, told.provenance.source.ref })
    assert.truthy(told.provenance.tools.make:find "GNU Make" and told.provenance.tools.gcc:find "gcc")
    assert.same({ build.id, 1, build.generation, "honua-server" },
      { told.buildId, told.attempt, told.generation, told.pipeline })
    local seen = {}
    for _, command in ipairs(told.commands) do
      seen[table.concat(command.argv, " "):match "^%S+ ?%S*"] = command.code
    end
    assert.equal(0, seen["make -j" .. (process.check { "nproc" })])
    assert.truthy(told.startedAt < told.endedAt and #told.artifacts >= 3)
    assert.equal("1714979289", told.provenance.environment.SOURCE_DATE_EPOCH)
  end)

  it("makes the same bytes of the same source", function()
    local _, one = fetch(run "make-bundle")
    local _, two = fetch(run("make-bundle", "success", { customerId = "another" }))
    assert.truthy(#process.read(one) > 1000)
    assert.equal(process.read(one), process.read(two))
  end)

  it("builds a directory with make, and another with cmake", function()
    assert.equal("hello from make", hello(fetch(run "make-directory"), "usr/bin/hello"))
    assert.equal("hello from cmake", hello(fetch(run "cmake-directory"), "usr/bin/hello"))
  end)

  it("builds a file: repository at a commit with commands", function()
    local build = run "command-file"
    assert.equal("hello from command", hello(fetch(build), "bin/hello"))
    assert.equal(commit, server:get(("/downloads/%s/build.json"):format(build.id)).json.provenance.source.commit)
  end)

  it("builds a directory of a branch", function()
    assert.equal("hello from side", hello(fetch(run "make-side"), "usr/bin/hello"))
  end)

  it("shows the compiler's last lines when a compile fails", function()
    local build = run("broken", "failed")
    local message = build.errorMessage
    assert.truthy(message:find "undeclared_thing" and message:find "exit code", message)
    assert.truthy(builds.log(server, build.id):find "err| hello.c:1:%d+: error:")
    assert.equal("Building for target platforms", build.currentStep)
  end)

  it("says plainly what can't be built", function()
    assert.truthy(run("no-ref", "failed").errorMessage:find("the reference nope is not in", 1, true))
    assert.truthy(run("nothing", "failed").errorMessage:find("nothing to package", 1, true))
    assert.truthy(#run("outside", "failed").errorMessage > 10)
    local build = builds.run(server, { pipeline = "honua-server" }, "failed")
    assert.truthy(build.errorMessage:find("nothing to build", 1, true), build.errorMessage)
  end)
end)

describe("what pipelines are given:", function()
  for _, name in ipairs { "all", "exec", "fs", "archive", "http", "db" } do
    it(name, function() builds.run(server, { pipeline = "spec-" .. name }, "success", 60) end)
  end

  it("fields, metadata and results", function()
    local build = builds.run(server, { pipeline = "spec-fields", metadata = { team = "a" },
      manifest = { version = "1.0", Modules = { "core" } } })
    assert.equal("registry.example.org/a:1", build.imageUrl)
    assert.truthy(builds.log(server, build.id):find "half way")
  end)

  it("artifacts", function()
    local build = builds.run(server, { pipeline = "spec-artifacts" })
    local names = {}
    for _, artifact in ipairs(server:get(("/builds/%s/artifacts"):format(build.id)).json.artifacts) do
      names[artifact.name] = artifact.kind
    end
    assert.same({ ["renamed.txt"] = "note", ["manifest.json"] = "manifest", SHA256SUMS = "checksums",
      ["build.json"] = "provenance" }, names)
  end)

  it("import", function() builds.run(server, { pipeline = "spec-import", manifestPath = "form.json" }) end)

  it("defer, which runs last one first after a failure and a cancel", function()
    local failed = builds.run(server, { pipeline = "spec-defer", metadata = { fail = true } }, "failed")
    assert.equal("on purpose", failed.errorMessage)
    local cancelled = builds.submit(server, { pipeline = "spec-defer" })
    builds.await(server, cancelled, "building")
    server:wait_for(function() return uv.fs_stat(builds.workspace(server, cancelled) .. "/kept") end, 10)
    assert.equal(202, server:post(("/builds/%s/cancel"):format(cancelled), { reason = "enough" }).status)
    assert.equal("enough", builds.await(server, cancelled, "cancelled").errorMessage)
    for _, id in ipairs { failed.id, cancelled } do
      local log, at = builds.log(server, id), 0
      for _, line in ipairs { "exists true", "deferred last", "in a deferred function", "deferred first",
        "a command at the end" } do
        at = log:find(line, at + 1, true)
        assert.truthy(at, line .. " in " .. log)
      end
    end
  end)
end)
