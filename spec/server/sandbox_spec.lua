-- What a build can see of the server and of others: nothing. And what becomes of its secrets.
local uv = require "luv"
local mime = require "mime"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local ENVIRONMENT_SECRET <const> = "in-the-servers-environment-4711"
local FILE_SECRET <const> = "in-the-configuration-0815"
local TOKEN <const> = "tok-5f2c9a-very-secret"

-- A pipeline whose one command is the build's metadata.line; the output is an artifact as it is, unmasked.
local SHELL <const> = [[
  local fs = require("buildq").fs
  return { run = function(build)
    local result = build:exec { shell = build.metadata.line, capture = true, check = false }
    fs.write("output.txt", result.output)
    fs.write("code.txt", tostring(result.code))
    build:artifact "output.txt"
    build:artifact "code.txt"
  end }]]

local server

local function secrets_directory()
  local directory = process.directory()
  process.write(directory .. "/token", TOKEN .. "\n")
  process.write(directory .. "/other", "another-secret-value")
  local user = process.ordinary_user()
  if user then process.check { "chown", "-R", user.name, directory } end
  process.check { "chmod", "-R", "go=", directory }
  return directory
end

setup(function()
  server = Server.new {
    config = {
      BuildQueue = { MaxConcurrentBuilds = 3, MaxRetryAttempts = 0, SecretsDirectory = secrets_directory(),
        GracefulShutdownTimeoutSeconds = 1 },
      Email = { SmtpUsername = "u", SmtpPassword = FILE_SECRET },
    },
    env = { SPEC_SECRET = ENVIRONMENT_SECRET },
    scripts = builds.scripts {
      ["pipelines/shell.lua"] = SHELL,
      ["pipelines/secrets.lua"] = [[
        local buildq = require "buildq"
        return { needs = { secrets = { "token", "absent" } }, run = function(build)
          local token = build:secret "token"
          buildq.fs.write("hash.txt", buildq.sha256(token))
          build:artifact "hash.txt"
          build:log("said " .. token)
          build:exec { argv = { "echo", "argument", token } }
          build:exec { argv = { "sh", "-c", "echo stderr $T >&2" }, env = { T = token } }
          build:exec { shell = "printf 'user:%s' $T | base64", env = { T = token } }
          build:exec { shell = "printf 'a-longer-user:%s' $T | base64 -w0; echo", env = { T = token } }
          build:exec { shell = "printf 'half %.5s' $T; sleep 0.1; printf '%s\n' ${T#?????}", env = { T = token } }
          local captured = build:exec { argv = { "printenv", "T" }, env = { T = token }, capture = true }
          buildq.fs.write("captured.txt", captured.output .. table.concat(captured.lines))
          build:artifact "captured.txt"
          build:result { provenance = { note = "with " .. token, list = { token } } }
          local ok, err = pcall(build.secret, build, "absent")
          build:log("absent: " .. tostring(ok) .. " " .. tostring(err))
          ok, err = pcall(build.secret, build, "other")
          build:log("other: " .. tostring(ok) .. " " .. tostring(err))
          build:step("Step with " .. token, function()
            if build.metadata.how == "error" then error("failed with " .. token) end
            if build.metadata.how == "fail" then build:fail("failed with " .. token) end
            if build.metadata.how == "exec" then build:exec { shell = "echo last " .. token .. "; exit 3" } end
          end)
        end }]],
    },
  }
  process.check { "mkdir", "-p", server.directory .. "/.ssh" }
  process.write(server.directory .. "/.ssh/id_ed25519", "a private key")
  process.check { "chmod", "-R", "a+rX", server.directory }
  server:launch()
end)

teardown(function()
  if server then server:stop() end
end)

-- What a shell line prints inside of a build, and its exit code.
local function inside(line, of)
  of = of or server
  local id = builds.run(of, { pipeline = "shell", metadata = { line = line } }).id
  return of:get(("/downloads/%s/output.txt"):format(id)).body,
    tonumber(of:get(("/downloads/%s/code.txt"):format(id)).body), id
end

describe("a build", function()
  it("sees of the disk only the system and its own workspace", function()
    local listing, _, id =
      inside "find / -path /usr -prune -o -path /proc -prune -o -path /dev -prune -o -print 2>/dev/null"
    local own = builds.workspace(server, id)
    local parts = { [own] = true }
    for path in own:gmatch "()/" do parts[own:sub(1, path - 1)] = true end
    for path in listing:gmatch "[^\n]+" do
      local fine = parts[path] or path == "/" or path:sub(1, #own + 1) == own .. "/" or path:find "^/etc"
        or path:find "^/bin" or path:find "^/s?bin" or path:find "^/lib" or path == "/tmp" or path == "/var"
        or path == "/var/tmp" or path == "/usr" or path == "/proc" or path == "/dev"
      assert.truthy(fine, path)
      assert.is_nil(path:find "ssl/private/")
      assert.is_nil(path:find "/etc/shadow")
    end
  end)

  it("can't open the configuration, keys, state, logs, secrets, output or another workspace by their names", function()
    local gate = builds.submit(server, { pipeline = "gate" })
    builds.await(server, gate, "building")
    local other = builds.workspace(server, gate)
    server:wait_for(function() return uv.fs_stat(other) end, 10)
    local paths = { "appsettings.json", ".ssh/id_ed25519", "state", "server.log", "output", "manifests", "scripts",
      "builds" }
    local lines = {}
    for i, path in ipairs(paths) do lines[i] = ("ls -d %s/%s"):format(server.directory, path) end
    lines[#lines] = ("ls %s/builds"):format(server.directory)
    lines[#lines + 1] = "ls -d " .. other
    lines[#lines + 1] = "ls -d " .. server.config.BuildQueue.SecretsDirectory
    lines[#lines + 1] = "cat /root/.ssh/* /home/*/.ssh/* /etc/shadow"
    local output, _, id = inside("(" .. table.concat(lines, "; ") .. ") 2>/dev/null")
    assert.equal(id .. "\n", output)
    builds.open_gate(server, gate)
    builds.await(server, gate, "success")
  end)

  it("can't reach the database's socket", function()
    local directory = server.config.BuildQueue.ConnectionString:match "host=(%S+)"
    assert.truthy(uv.fs_stat(directory .. "/.s.PGSQL.5432"))
    local output, code = inside(("ls -a %s; PGCONNECT_TIMEOUT=3 psql -h %s -U postgres -c 'select 1' postgres")
      :format(directory, directory))
    assert.equal("", output)
    assert.not_equal(0, code)
  end)

  it("finds nobody's environment and no process but its own", function()
    local gate = builds.submit(server, { pipeline = "shell", metadata = { line = "OTHERS=secret sleep 20" } })
    builds.await(server, gate, "building")
    local output = inside "cat /proc/[0-9]*/environ | tr '\\0' '\\n'; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    server:post(("/builds/%s/cancel"):format(gate))
    assert.truthy(output:find "PATH=")
    for _, secret in ipairs { ENVIRONMENT_SECRET, FILE_SECRET, "SPEC_SECRET", "OTHERS", "sleep 20", "serve" } do
      assert.is_nil(output:find(secret, 1, true), secret)
    end
    builds.await(server, gate, "cancelled")
  end)

  it("has a clean environment", function()
    local output, _, id = inside "env | sort"
    local own = builds.workspace(server, id)
    local variables = {}
    for name, value in output:gmatch "([^=\n]+)=([^\n]*)" do variables[name] = value end
    variables.PWD, variables.OLDPWD, variables.SHLVL, variables._ = nil, nil, nil, nil -- the shell's own
    assert.same({ PATH = "/usr/local/bin:/usr/bin:/bin", HOME = own, TMPDIR = own .. "/.tmp", LANG = "C.UTF-8",
      TZ = "UTC" }, variables)
  end)

  it("has no descriptors but its three, and its input is empty", function()
    assert.equal("0\n1\n2\n", (inside "sh -c 'for f in /proc/$$/fd/*; do n=${f##*/}; [ -e $f ] && echo $n; done'"))
    assert.equal("0\n", (inside "wc -c"))
  end)

  it("writes to its workspace and /tmp alone", function()
    local output = inside [[
      for d in / /usr /usr/local/bin /etc /var /proc/sys/kernel; do touch $d/spec-was-here 2>/dev/null && echo $d; done
      for d in . "$TMPDIR" /tmp; do touch $d/spec-was-here && echo fine; done]]
    assert.equal("fine\nfine\nfine\n", output)
  end)

  it("is nobody of importance", function()
    local output = inside "id -u; grep CapEff /proc/self/status"
    assert.truthy(tonumber(output:match "^%d+") > 0, output)
    assert.truthy(output:find "CapEff:%s*0000000000000000", output)
  end)

  it("leaves no process behind", function()
    local _, _, id = inside "setsid sleep 300 >/dev/null 2>&1 & echo"
    server:wait_for(function()
      for name in uv.fs_scandir_next, assert(uv.fs_scandir "/proc") do
        if name:find "^%d+$" and process.read("/proc/" .. name .. "/environ"):find(id, 1, true) then return false end
      end
      return true
    end, 10, "all processes of the build to end")
  end)
end)

describe("a secret", function()
  local function everything(id)
    local parts = { builds.log(server, id), server:log(), server:get("/builds/" .. id).body,
      server:get(("/builds/%s/attempts"):format(id)).body, server:get(("/builds/%s/events"):format(id)).body,
      server:get(("/downloads/%s/build.json"):format(id)).body, server:get("/builds?limit=500").body }
    return table.concat(parts, "\n")
  end

  local function assert_masked(text)
    for shift = 0, 2 do
      -- What base64 makes of it inside a longer text, without the ends that depend on its neighbours.
      local encoded = mime.b64(("x"):rep(shift) .. TOKEN):sub(5, -5)
      assert.is_nil(text:find(encoded, 1, true), "base64: " .. text)
    end
    local from = text:find(TOKEN, 1, true)
    assert.is_nil(from, from and text:sub(math.max(1, from - 200), from + 50))
  end

  it("that a pipeline needs is handed out, and masked wherever it is said", function()
    local id = builds.run(server, { pipeline = "secrets" }).id
    assert.equal(process.check({ "sh", "-c", "printf %s '" .. TOKEN .. "' | sha256sum" }):match "%x+",
      server:get(("/downloads/%s/hash.txt"):format(id)).body)
    local log = builds.log(server, id)
    for _, line in ipairs { "sys| said ***", "out| argument ***", "err| stderr ***", "out| half ***",
      "Step with ***" } do
      assert.truthy(log:find(line, 1, true), log)
    end
    assert_masked(everything(id))
    assert_masked(server:get(("/downloads/%s/captured.txt"):format(id)).body)
    local provenance = server:get(("/downloads/%s/build.json"):format(id)).json
    assert.equal("with ***", provenance.provenance.note)
    assert.same({ "echo", "argument", "***" }, provenance.commands[1].argv)
  end)

  for how, words in pairs { error = "failed with ***", fail = "failed with ***", exec = "last ***" } do
    it("is masked in the message of a failure: " .. how, function()
      local build = builds.run(server, { pipeline = "secrets", metadata = { how = how } }, "failed")
      assert.truthy(build.errorMessage:find(words, 1, true), build.errorMessage)
      assert_masked(everything(build.id))
    end)
  end

  it("that it does not need, or that is not there, it does not get", function()
    local log = builds.log(server, builds.run(server, { pipeline = "secrets" }).id)
    assert.truthy(log:find("other: false build:secret: the pipeline's needs.secrets does not name other", 1, true), log)
    assert.truthy(log:find("absent: false build:secret: there is no secret absent", 1, true), log)
    assert.is_nil(log:find("another-secret-value", 1, true))
  end)

  it("of the configuration is in no log", function()
    assert.is_nil(server:log():find(FILE_SECRET, 1, true))
    assert.is_nil(server:log():find(ENVIRONMENT_SECRET, 1, true))
  end)
end)

describe("Sandbox=none", function()
  it("is warned of in the log and in /readyz, and keeps the environment clean", function()
    local bare = Server.start {
      config = { BuildQueue = { Sandbox = "none" } }, env = { SPEC_SECRET = ENVIRONMENT_SECRET },
      scripts = builds.scripts { ["pipelines/shell.lua"] = SHELL },
    }
    assert.truthy(bare:log():find "warn[^\n]+[Ss]andbox", bare:log())
    local answer = bare:get "/readyz"
    assert.equal(200, answer.status)
    assert.equal("degraded", answer.json.status)
    assert.truthy(answer.body:find("Sandbox is none", 1, true))
    local output = inside("env; sh -c 'ls /proc/$$/fd'", bare)
    assert.is_nil(output:find("SPEC_SECRET", 1, true))
    assert.truthy(output:find "\n0\n1\n2\n$", output)
    bare:stop()
  end)

  it("is not said of a server with a sandbox", function()
    assert.is_nil(server:get("/readyz").body:find("Sandbox is none", 1, true))
    assert.is_nil(server:log():find "warn[^\n]+[Ss]andbox")
  end)
end)
