-- Sources over https, images in a registry: what a build does outside, with a program that needs no .NET.
local uv = require "luv"
local Forge = require "spec.support.forge"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local image = require "spec.support.image"
local leaks = require "spec.support.leaks"
local npm = require "spec.support.npm"
local process = require "spec.support.process"

local forge, server, commit, bill

local function order(more, cloud) return forge:order(more, cloud) end

setup(function()
  forge = Forge.start()
  commit = forge:repository("public/daemon", "spec/fixtures/daemon")
  forge:repository("private/daemon", "spec/fixtures/daemon")
  server = Server.new { config = { BuildQueue = forge:config { MaxRetryAttempts = 0 } } }
  local secret = server.directory .. "/token"
  process.write(secret, Forge.TOKEN .. "\n")
  if process.is_root then process.check { "chown", "nobody:", secret } end
  assert(uv.fs_chmod(secret, tonumber("600", 8)))
  process.write(server.directory .. "/wrong", "not-the-token-at-all\n")
  local hosts = { forge.git_host, forge.closed_registry }
  server.config.BuildQueue.Credentials = {
    ci = { value = "file:" .. secret, username = "ci", hosts = hosts, customers = { "c1" } },
    wrong = { value = "file:" .. server.directory .. "/wrong", username = "ci", hosts = hosts, customers = { "*" } },
  }
  server:write_config()
  server:launch()
end)

local function build_json(id) return server:get(("/downloads/%s/build.json"):format(id)).json.provenance end

local function refusal(body)
  local answer = server:post("/builds", builds.request(body))
  assert.equal(400, answer.status, answer.body)
  local by_path = {}
  for _, fault in ipairs(answer.json.errors) do by_path[fault.path] = fault.message end
  return by_path
end

describe("a build from outside", function()
  it("records the commit, and pushes an image that starts from its own root", function()
    local build = builds.run(server, order({}, { registryUrl = forge.registry .. "/public/daemon" }), "success", 60)
    local record = build_json(build.id)
    assert.equal(commit, record.source.commit)
    assert.matches("^" .. forge.registry:gsub("%p", "%%%0") .. "/public/daemon@sha256:%x+$", build.imageUrl)
    assert.equal(build.imageUrl, record.images[1].reference)
    assert.matches("^v1%.0%-%x+%-linux%-x64$", record.images[1].tag)
    local directory = process.directory()
    local digest = build.imageUrl:match "@(.*)$"
    forge:skopeo("copy", "--quiet", "docker://" .. build.imageUrl, ("oci:%s/pulled:image"):format(directory))
    local config = require("dkjson").decode(forge:skopeo("inspect", "--config", "docker://" .. build.imageUrl))
    assert.same({ "/app/usr/bin/server" }, config.config.Entrypoint)
    assert.equal("65532:65532", config.config.User)
    assert.is_table(config.config.ExposedPorts["8080/tcp"])
    assert.equal(commit, config.config.Labels["org.opencontainers.image.revision"])
    local archive = server:get(("/downloads/%s/daemon-linux-x64.tar.zst"):format(build.id)).body
    process.write(directory .. "/a.tar.zst", archive)
    process.check { "tar", "--zstd", "-xf", directory .. "/a.tar.zst", "-C", directory }
    local root = image.answers(directory .. "/pulled:image")
    process.check { "diff", "-r", directory .. "/daemon-linux-x64", root .. "/app" }
    -- Once more: the mirror is there, and the image is the same.
    local again = builds.run(server, order({}, { registryUrl = forge.registry .. "/public/daemon" }), "success", 60)
    assert.equal(digest, again.imageUrl:match "@(.*)$")
    local _, packs = forge:requests():gsub("POST /public/daemon.git/git%-upload%-pack[^\n]*", "")
    assert.is_true(packs <= 3, forge:requests()) -- ls-refs of both, the pack of the first alone
  end)

  it("has files to deploy with, an image as an artifact without a registry, and sums of all", function()
    local variables = { GREETING = "it's \"50 %\" $HOME $(id)\nand: more #x", N = "0123" }
    local wanted = order { environmentVariables = variables, resources = { minCpu = 1 } }
    local build = builds.run(server, wanted, "success", 60)
    local names, directory = {}, process.directory()
    for _, artifact in ipairs(server:get(("/builds/%s/artifacts"):format(build.id)).json.artifacts) do
      names[artifact.name] = artifact.kind
      process.write(directory .. "/" .. artifact.name,
        server:get(("/downloads/%s/%s"):format(build.id, artifact.name)).body)
    end
    assert.same({ "archive", "sbom", "deploy", "image" }, { names["daemon-linux-x64.tar.zst"],
      names["daemon-linux-x64.cdx.json"], names["daemon-linux-x64-deploy.tar.zst"], names["daemon-linux-x64.oci.tar"] })
    process.check({ "sha256sum", "--check", "--quiet", "SHA256SUMS" }, { cwd = directory })
    local digest = build_json(build.id).targets[1].image
    assert.equal(digest, process.check { "skopeo", "inspect", "--format", "{{.Digest}}",
      "oci-archive:" .. directory .. "/daemon-linux-x64.oci.tar" })
    process.check { "tar", "--zstd", "-xf", directory .. "/daemon-linux-x64-deploy.tar.zst", "-C", directory }
    local deploy = directory .. "/daemon-linux-x64/deploy/"
    local yaml = require "lyaml"
    local compose = yaml.load(process.read(deploy .. "compose.yaml"))
    assert.equal(variables.GREETING:gsub("%$", "$$"), compose.services.daemon.environment.GREETING)
    assert.equal("0123", compose.services.daemon.environment.N)
    local deployment = yaml.load(process.read(deploy .. "kubernetes.yaml"))
    assert.equal((variables.GREETING:gsub("%$%(", "$$(")), deployment.spec.template.spec.containers[1].env[1].value)
    local task = require("dkjson").decode(process.read(deploy .. "ecs-task-definition.json"))
    assert.equal(variables.GREETING, task.containerDefinitions[1].environment[1].value)
    assert.equal("eu-west-1", task.containerDefinitions[1].logConfiguration.options["awslogs-region"])
    bill = process.read(directory .. "/daemon-linux-x64.cdx.json")
  end)

  it("has files that each provider reads, with the image's digest where it was pushed", function()
    local greeting = "it's \"50 %\" $HOME $(id)\nand: more #x"
    local body = order({ environmentVariables = { GREETING = greeting }, resources = { minCpu = 1, minMemoryGb = 2 } },
      { registryUrl = forge.registry .. "/public/deployed" })
    for index, provider in ipairs { "azure", "gcp", "on-premises" } do
      body.manifest.cloudTargets[index + 1] = { provider = provider, region = "westeurope",
        registryUrl = body.manifest.cloudTargets[1].registryUrl }
    end
    local build = builds.run(server, body, "success", 60)
    local directory, yaml = process.directory(), require "lyaml"
    local function deployed(provider, file)
      local name = "daemon-linux-x64-" .. provider
      process.write(directory .. "/a", server:get(("/downloads/%s/%s-deploy.tar.zst"):format(build.id, name)).body)
      process.check { "tar", "--zstd", "-xf", directory .. "/a", "-C", directory }
      return process.read(("%s/%s/deploy/%s"):format(directory, name, file))
    end
    local task = require("dkjson").decode(deployed("aws", "ecs-task-definition.json"))
    assert.equal(build.imageUrl, task.containerDefinitions[1].image)
    local app = yaml.load(deployed("azure", "container-app.yaml"))
    assert.equal("westeurope", app.location)
    local container = app.properties.template.containers[1]
    assert.same({ build.imageUrl, greeting, 1, "2Gi" }, { container.image, container.env[1].value,
      container.resources.cpu, container.resources.memory })
    local service = yaml.load(deployed("gcp", "cloud-run.yaml"))
    container = service.spec.template.spec.containers[1]
    assert.same({ build.imageUrl, greeting, "1", "2048Mi" }, { container.image, container.env[1].value,
      container.resources.limits.cpu, container.resources.limits.memory })
    local unit = deployed("on-premises", "daemon.service")
    assert.matches('\nEnvironment="GREETING=it\'s \\"50 %%\\" $HOME $(id)\\nand: more #x"\n', unit, 1, true)
    assert.matches("\nExecStart=/opt/daemon/usr/bin/server\n", unit, 1, true)
    assert.matches("\nMemoryMax=2G\n", unit, 1, true)
  end)

  it("has a bill of materials that is one by CycloneDX's schema", function()
    local missing = npm.missing()
    if missing then return pending(missing) end
    local checked = npm.run("cyclonedx.mjs", bill)
    assert.equal(0, checked.code, checked.output .. checked.errors)
  end)

  for _, system in ipairs { "make", "cmake" } do
    it("crosses to linux-arm64 with Debian's compiler: " .. system, function()
      local cross = order { architecture = "linux-arm64", build = { system = system } }
      cross.architecture = "linux-arm64"
      local build = builds.run(server, cross, "success", 60)
      local directory = process.directory()
      local function fetch(name, to)
        process.write(to, server:get(("/downloads/%s/%s"):format(build.id, name)).body)
        return to
      end
      process.check { "tar", "--zstd", "-xf", fetch("daemon-linux-arm64.tar.zst", directory .. "/a"), "-C", directory }
      local header = process.read(directory .. "/daemon-linux-arm64/usr/bin/server"):sub(1, 20)
      assert.equal("\127ELF", header:sub(1, 4))
      assert.equal(183, (string.unpack("<I2", header, 19))) -- EM_AARCH64
      local archive = fetch("daemon-linux-arm64.oci.tar", directory .. "/image.tar")
      assert.equal("arm64", process.check { "skopeo", "inspect", "--format", "{{.Architecture}}",
        "oci-archive:" .. archive })
    end)
  end
end)

describe("a repository with submodules", function()
  local pinned

  -- A repository that shows what its submodule holds.
  local function outer(name, url)
    forge:repository(name, "spec/fixtures/daemon", function(tree)
      process.write(tree .. "/Makefile", "all:\n\tcat part/inner/which\n\tcp part/inner/which $(OUTPUT)/which\n")
      Forge.submodule(tree, "part", url, pinned)
    end)
    return { repository = ("%s%s.git"):format(forge.git, name), ref = "main" }
  end

  setup(function()
    for _, where in ipairs { "public", "private" } do
      local function which(text)
        return function(tree) process.write(tree .. "/which", text .. "\n") end
      end
      local first = forge:repository(where .. "/inner", "spec/fixtures/daemon", which "the first")
      forge:repository(where .. "/inner", "spec/fixtures/daemon", which "the second")
      pinned = forge:repository(where .. "/part", "spec/fixtures/daemon", function(tree)
        Forge.submodule(tree, "inner", ("%s%s/inner.git"):format(forge.git, where), first)
      end)
    end
  end)

  it("is checked out with them, and with theirs, at the commits that it names", function()
    pinned = forge:run_git("public/part", "rev-parse", "HEAD")
    local build = builds.run(server, order { source = outer("public/whole", "../part.git") }, "success", 60)
    assert.matches("out| the first\n", builds.log(server, build.id), 1, true)
  end)

  it("gets them with its own credential from its own host, from another without", function()
    pinned = forge:run_git("private/part", "rev-parse", "HEAD")
    local source = outer("private/whole", "../part.git")
    source.credentials = "ci"
    builds.run(server, order { source = source }, "success", 60)
    assert.matches("/private/inner.git/git-upload-pack", forge:requests(), 1, true)
    source = outer("private/astray", forge.git:gsub("localhost", "127.0.0.1") .. "private/part.git")
    source.credentials = "ci"
    local build = builds.run(server, order { source = source }, "failed", 60)
    assert.matches("https://127.0.0.1:%d+/private/part.git can't be fetched", build.errorMessage)
    local astray = forge:requests():match "[^\n]+/private/astray.git/git%-upload%-pack.*"
    assert.matches("/private/part.git/info/refs", astray, 1, true)
    assert.is_nil(astray:match "ci %[[^\n]+/private/part")
  end)

  it("is refused when one leads to files of the server, or out of the repository", function()
    local build = builds.run(server, order { source = outer("public/files", "file:///etc") }, "failed", 60)
    assert.matches("the submodule part of .*public/files.git: file:///etc is on the server's disk", build.errorMessage)
    local source = outer("public/outside", "../part.git")
    forge:repository("public/outside", "spec/fixtures/daemon", function(tree)
      process.write(tree .. "/.gitmodules", process.read(tree .. "/.gitmodules"):gsub("path = part", "path = ../../x"))
    end)
    build = builds.run(server, order { source = source }, "failed", 60)
    assert.matches("leads out of the repository", build.errorMessage)
  end)
end)

describe("a credential", function()
  local function private(name, more)
    local source = { repository = forge.git .. "private/daemon.git", ref = "main", credentials = name }
    local place = { registryUrl = forge.closed_registry .. "/private/daemon", credentials = name }
    local body = order({ source = source }, place)
    for key, value in pairs(more or {}) do body[key] = value end
    return body
  end


  it("opens what is private, and is seen nowhere", function()
    forge:fault("hang", 10)
    local id = builds.submit(server, private "ci")
    for _, next_fault in ipairs { "stall", false } do -- while git, and then skopeo, is at work with it
      server:wait_for(function() return forge:hangs() end, 60)
      for _, word in ipairs(forge.secrets) do assert.same({}, leaks.in_processes(word)) end
      forge:fault(next_fault or nil)
    end
    builds.await(server, id, "success", 60)
    local more = { except = "token", places = { forge.directory .. "/access.log" } }
    assert.equal("", leaks.in_build(server, id, forge.secrets, more))
  end)

  it("is refused when the build is enqueued: for others, for other hosts, unknown ones", function()
    local faults = refusal(private("ci", { customerId = "c2" }))
    assert.matches("this customer may use", faults["$.manifest.source.credentials"])
    assert.matches("this customer may use", faults["$.manifest.cloudTargets[0].credentials"])
    faults = refusal(private "nobody")
    assert.matches("this customer may use", faults["$.manifest.source.credentials"])
    faults = refusal(order { source = { repository = "https://git.example.org/a.git", credentials = "ci" } })
    assert.matches("is not for the host git.example.org", faults["$.manifest.source.credentials"])
    faults = refusal(order { source = { repository = "http://" .. forge.git_host .. "/a.git", credentials = "ci" } })
    assert.matches("in clear text", faults["$.manifest.source.credentials"])
    for _, url in ipairs { "https://evil.example?@%s/a.git", "https://evil.example#@%s/a.git",
      "https://evil.example\\@%s/a.git", "https://a@evil.example@%s/a.git" } do
      faults = refusal(order { source = { repository = url:format(forge.git_host), credentials = "ci" } })
      assert.matches("must", faults["$.manifest.source.repository"], nil, url)
    end
  end)

  it("does not follow a repository to another host", function()
    local function logins() return select(2, process.read(forge.directory .. "/access.log"):gsub(" %- ci %[", "")) end
    local before = logins()
    local source = { repository = forge.git .. "moved/daemon.git", ref = "main", credentials = "ci" }
    local build = builds.run(server, order { source = source }, "failed", 60)
    assert.matches("can't be fetched", build.errorMessage)
    assert.matches("/private/daemon.git/info/refs", process.read(forge.directory .. "/access.log"))
    assert.equal(before, logins())
  end)

  it("that is wrong ends the build for good", function()
    local build = builds.run(server, private "wrong", "failed", 60)
    assert.matches("can't be fetched", build.errorMessage)
    assert.matches("will not be tried again", server:log())
    local place = { registryUrl = forge.closed_registry .. "/private/daemon", credentials = "wrong" }
    build = builds.run(server, order({}, place), "failed", 60)
    assert.matches("can't be", build.errorMessage)
    assert.is_nil(build.errorMessage:find("not-the-token-at-all", 1, true))
  end)
end)

describe("what builds share", function()
  it("is removed when none has asked for it in CompletedBuildRetentionDays", function()
    local git = server.directory .. "/state/shared/git"
    builds.run(server, order(), "success", 60)
    local used = process.check { "ls", git }
    process.check { "mkdir", "-p", git .. "/forgotten" }
    if process.is_root then process.check { "chown", "nobody:", git .. "/forgotten" } end
    process.check { "touch", "-d", "60 days ago", git .. "/forgotten" }
    server:stop()
    server:launch() -- the janitor begins
    server:wait_for(function() return not uv.fs_stat(git .. "/forgotten") end, 20)
    assert.equal(used, process.check { "ls", git })
  end)
end)
