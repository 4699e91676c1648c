-- The fixture product through the whole server, with the real .NET SDK: published, started, asked; and an order for it.
-- Without the SDK there is nothing to try: each test is pending with that reason.
local uv = require "luv"
local Forge = require "spec.support.forge"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local image = require "spec.support.image"
local leaks = require "spec.support.leaks"
local npm = require "spec.support.npm"
local process = require "spec.support.process"

local SDK <const> = uv.fs_stat "/usr/bin/dotnet" ~= nil
local SECONDS <const> = 900 -- a first build downloads the runtime

local forge, server, commit

-- BUILDQ_DOTNET_MODES=all tries every mode; that is some minutes.
local ALL <const> = os.getenv "BUILDQ_DOTNET_MODES" == "all"

-- Compiles for x64 alone.
local FAULT <const> = [[
#if BROKEN
#error not on this processor
#endif
]]
local DEFINE <const> = [[
  <PropertyGroup Condition="'$(RuntimeIdentifier)' == 'linux-arm64'">
    <DefineConstants>$(DefineConstants);BROKEN</DefineConstants>
  </PropertyGroup>
</Project>]]

local function make_repositories()
  commit = forge:repository("public/product", "spec/fixtures/product")
  forge:mirror("public/product", "private/product")
  forge:repository("public/broken", "spec/fixtures/product", function(tree)
    local server_directory = tree .. "/src/Sample.Server/"
    local project, program = server_directory .. "Sample.Server.csproj", server_directory .. "Program.cs"
    process.write(project, (process.read(project):gsub("</Project>", (DEFINE:gsub("%%", "%%%%")))))
    process.write(program, FAULT .. process.read(program))
  end)
end

-- What images stand on: this machine's runtime; for the other processor, where none is started, nothing.
local function make_bases(directory)
  image.fill_with_dotnet(directory .. "/root")
  return {
    ["linux-x64"] = image.base(directory .. "/base-x64", { architecture = "amd64", root = directory .. "/root" }),
    ["linux-arm64"] = image.base(directory .. "/base-arm64", { architecture = "arm64" }),
  }
end

setup(function()
  if not SDK then return end
  forge = Forge.start()
  make_repositories()
  server = Server.new {
    config = { BuildQueue = forge:config { MaxRetryAttempts = 0, DiskReserveMegabytes = 0 } },
    scripts = { ["lib/product.lua"] = ([[
      return { source = { repository = %q, ref = "main" }, build = { system = "dotnet" } }
    ]]):format(forge.git .. "public/product.git") },
  }
  local secret = server.directory .. "/token"
  process.write(secret, Forge.TOKEN .. "\n")
  if process.is_root then process.check { "chown", "nobody:", secret } end
  assert(uv.fs_chmod(secret, tonumber("600", 8)))
  server.config.BuildQueue.Credentials = {
    ci = { value = "file:" .. secret, username = "ci", hosts = { forge.git_host }, customers = { "*" } },
  }
  server.config.BuildQueue.BaseImages = make_bases(process.directory())
  server:write_config()
  server:launch()
end)

local function target(architecture, more)
  local made = { id = architecture:match "%-(%w+)$", architecture = architecture, provider = "aws", tier = "pro" }
  for name, value in pairs(more or {}) do made[name] = value end
  return made
end

---@param optimizations table
---@param more? {repository?: string, credentials?: string, targets?: table[]}
local function form(optimizations, more)
  more = more or {}
  return { pipeline = "honua-server", manifest = {
    name = "Sample", version = "2.1.0",
    repositories = { { name = "product", url = forge.git .. (more.repository or "public/product.git"),
      access = more.credentials and "private" or nil, credentials = more.credentials } },
    modules = { ".Core", "tiles", ".Server" },
    targets = more.targets or { target "linux-x64" }, optimizations = optimizations,
  } }
end

local function unpacked(id, name)
  local directory = process.directory()
  process.write(directory .. "/a", server:get(("/downloads/%s/%s.tar.zst"):format(id, name)).body)
  process.check { "tar", "--zstd", "-xf", directory .. "/a", "-C", directory }
  return directory .. "/" .. name
end

local function try(name, fn)
  it(name, function()
    if not SDK then return pending "the .NET SDK is not here" end
    return fn()
  end)
end

local function provenance(id) return server:get(("/downloads/%s/build.json"):format(id)).json.provenance end

describe("a .NET product", function()
  local PLAIN <const> = { selfContained = false, readyToRun = false } -- the quickest
  local first, url

  try("is published for two processors, and answers", function()
    local place = { url = forge.registry, repository = "public/sample", tagStrategy = "semantic-version" }
    first = builds.submit(server, form(PLAIN, { targets = { target("linux-x64", { registry = place }),
      target("linux-arm64", { registry = place }) } }))
    url = builds.await(server, first, "success", SECONDS).imageUrl
    assert.matches("src/Sample.Server/Sample.Server.csproj %(a program%)", builds.log(server, first))
    local record = provenance(first)
    assert.equal(commit, record.source.commit)
    assert.matches("^%d+%.%d+%.%d+", record.tools.dotnet)
    for _, one in ipairs(record.targets) do assert.is_true(one.seconds > 0) end
    image.program_answers { unpacked(first, "Sample-x64") .. "/Sample.Server" }
  end)

  try("has a bill of materials that names what is in it", function()
    local text = server:get(("/downloads/%s/Sample-x64.cdx.json"):format(first)).body
    local names = {}
    for _, component in ipairs(require("dkjson").decode(text).components) do names[component.name] = component.type end
    assert.equal("library", names["Sample.Core"])
    assert.equal("library", names["Sample.Tiles"])
    local missing = npm.missing()
    if missing then return pending(missing) end
    local checked = npm.run("cyclonedx.mjs", text)
    assert.equal(0, checked.code, checked.output .. checked.errors)
  end)

  try("is one tag for both processors: an index, which is the build's image", function()
    local record = provenance(first)
    assert.equal(1, #record.images)
    assert.same({ reference = url, tag = "2.1.0", index = true }, record.images[1])
    assert.same({ "2.1.0" }, forge:tags "public/sample")
    local index = require("dkjson").decode(forge:skopeo("inspect", "--raw", "docker://" .. url))
    assert.equal("application/vnd.oci.image.index.v1+json", index.mediaType)
    local by_architecture = {}
    for _, one in ipairs(index.manifests) do by_architecture[one.platform.architecture] = one.digest end
    assert.same({ amd64 = record.targets[1].image, arm64 = record.targets[2].image }, by_architecture)
    local there = forge:skopeo("inspect", "--override-arch", "arm64", "--config", "docker://" .. url)
    assert.equal("arm64", require("dkjson").decode(there).architecture)
    local compose = process.read(unpacked(first, "Sample-x64-deploy"):gsub("%-deploy$", "") .. "/deploy/compose.yaml")
    assert.matches(("public/sample@%s"):format(by_architecture.amd64), compose, 1, true)
  end)

  try("is an image that answers from its own root, with the files of the archive", function()
    local layout = process.directory() .. "/pulled:image"
    forge:skopeo("copy", "--quiet", "--override-arch", "amd64", "docker://" .. url, "oci:" .. layout)
    local root = image.answers(layout)
    process.check { "diff", "-r", "--exclude=*.pdb", unpacked(first, "Sample-x64"), root .. "/app" }
  end)

  try("of a private repository is the same bytes, and its token is seen nowhere", function()
    forge:fault("hang", 10)
    local id = builds.submit(server, form(PLAIN, { repository = "private/product.git", credentials = "ci" }))
    server:wait_for(function() return forge:hangs() end, 60)
    for _, word in ipairs(forge.secrets) do assert.same({}, leaks.in_processes(word)) end
    forge:fault()
    builds.await(server, id, "success", SECONDS)
    local function sum(of)
      return server:get(("/downloads/%s/SHA256SUMS"):format(of)).body:match "%x+  Sample%-x64%.tar%.zst"
    end
    assert.equal(sum(first), sum(id))
    local more = { except = "token", places = { forge.directory .. "/access.log" } }
    assert.equal("", leaks.in_build(server, id, forge.secrets, more))
  end)

  try("that does not compile for one target names it, the file and the error, and what was built", function()
    local build = builds.run(server, form(PLAIN, { repository = "public/broken.git",
      targets = { target "linux-arm64", target "linux-x64" } }), "failed", SECONDS)
    assert.matches("failed: arm64; built: x64; target arm64: src/Sample.Server/Program.cs(2,8): error CS1029: #error: "
      .. "'not on this processor'", build.errorMessage, 1, true)
    assert.is_nil(build.errorMessage:find(server.directory, 1, true))
    local log = builds.log(server, build.id)
    assert.matches("x64 is built, [%d.]+ s", log)
    assert.matches("arm64 failed: src/Sample.Server/Program.cs", log, 1, true)
    assert.equal(0, #server:get(("/builds/%s/artifacts"):format(build.id)).json.artifacts)
    assert.matches("will not be tried again", server:log())
  end)

  try("that is cancelled while it compiles leaves no compiler behind", function()
    local id = builds.submit(server, form(PLAIN))
    server:wait_for(function() return builds.log(server, id):find("Determining projects", 1, true) end, SECONDS)
    assert.equal(202, server:post(("/builds/%s/cancel"):format(id)).status)
    builds.await(server, id, "cancelled", 30)
    server:wait_for(function() return not uv.fs_stat(builds.workspace(server, id)) end, 20)
    assert.equal("", process.run({ "pgrep", "-f", id }).output)
  end)

  try("without a kept project says what there was", function()
    local body = form(PLAIN)
    body.manifest.modules = { "Zither" }
    local build = builds.run(server, body, "failed", SECONDS)
    assert.matches("no project is kept by the modules zither; there are: src/Sample.Core", build.errorMessage)
  end)

  for name, optimizations in pairs {
    ["self-contained"] = { nativeAot = false, trim = false, readyToRun = false },
    ["ReadyToRun"] = { nativeAot = false, trim = false },
    ["trimmed"] = { nativeAot = false }, -- and ReadyToRun: see scripts/README.md, .NET
    ["native AOT"] = { nativeAot = true },
  } do
    if ALL then
      try("in the mode " .. name .. " answers, and so does its image", function()
        local build = builds.run(server, form(optimizations), "success", SECONDS)
        image.program_answers { unpacked(build.id, "Sample-x64") .. "/Sample.Server" }
        local archive = process.directory() .. "/image.tar"
        process.write(archive, server:get(("/downloads/%s/Sample-x64.oci.tar"):format(build.id)).body)
        forge:skopeo("copy", "--quiet", "oci-archive:" .. archive, ("oci:%s.layout:image"):format(archive))
        image.answers(archive .. ".layout:image")
      end)
    end
  end

  -- scripts/README.md, Images
  local RECIPE <const> = [[
    cd "$1"
    mmdebstrap --quiet --variant=minbase --include=libstdc++6,ca-certificates bookworm base.tar
    mkdir debian && tar -C debian --exclude='./dev/*' -xf base.tar
    umoci init --layout "$1/debian-base" && umoci new --image "$1/debian-base:base"
    umoci insert --image "$1/debian-base:base" debian / && umoci gc --layout "$1/debian-base"
    chmod -R a+rX "$1/debian-base"
  ]]

  if ALL then
    try("answers on a base that is made as the manual says", function()
      if process.run({ "sh", "-c", "command -v mmdebstrap" }).code ~= 0 then return pending "there is no mmdebstrap" end
      local directory = process.directory()
      process.check({ "sh", "-ec", RECIPE, "sh", directory }, { seconds = 600 })
      server.config.BuildQueue.BaseImages["linux-x64"] = directory .. "/debian-base"
      server:write_config()
      server:stop()
      server:launch()
      local build = builds.run(server, form { nativeAot = false, trim = false, readyToRun = false }, "success", SECONDS)
      local archive = directory .. "/image.tar"
      process.write(archive, server:get(("/downloads/%s/Sample-x64.oci.tar"):format(build.id)).body)
      forge:skopeo("copy", "--quiet", "oci-archive:" .. archive, ("oci:%s/layout:image"):format(directory))
      local root = image.answers(directory .. "/layout:image")
      assert.equal("ID=debian", process.read(root .. "/etc/os-release"):match "\n(ID=%w+)")
    end)

    try("is ordered by its modules alone", function()
      local build = builds.run(server, { pipeline = "honua-server", manifest = {
        name = "Sample", architecture = "linux-x64", tier = "pro", modules = { "VectorTiles" },
        cloudTargets = { { provider = "aws" } },
      } }, "success", SECONDS)
      image.program_answers { unpacked(build.id, "Sample-linux-x64") .. "/Sample.Server" }
    end)
  end
end)
