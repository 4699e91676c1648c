-- The build form of the manifest, what both forms become, and the hash of that.
local hash = require "manifest.hash"
local json = require "spec.support.json"
local manifest = require "manifest"
local schema = require "manifest.schema"

local function read(text) return assert(json.decode(text)) end
local WORLD <const> = { machine = "linux-x64", has_program = function() return false end }
local CROSS <const> = { machine = "linux-x64", has_program = function() return true end }
local function sha256(text) return text end -- the text itself: what differs shows

local function base()
  return read [[{
    "id": "b1", "version": "2.1.0", "name": "Honua", "description": "d",
    "repositories": [{"name": "server", "url": "https://git.example.org/server.git",
                      "projects": ["a/A.csproj", "b/B.csproj"]},
                     {"name": "tiles", "url": "ssh://git@git.example.org/tiles", "ref": "v1", "access": "private",
                      "credentials": "git"}],
    "modules": ["Core", "Tiles"],
    "targets": [
      {"id": "x64", "provider": "aws", "architecture": "amd64", "tier": "professional",
       "registry": {"url": "registry.example.org:5000", "repository": "honua/server", "tags": ["latest"]}},
      {"id": "arm", "provider": "azure", "architecture": "linux-arm64", "tier": "Pro",
       "optimizations": {"vectorization": "NEON", "trim": false},
       "registry": {"url": "registry.example.org:5000", "repository": "honua/server", "tags": ["latest"]}}],
    "deployment": {"region": "eu", "resources": {"cpuLimit": 2, "timeout": 5}, "costEstimate": {"buildCost": 1}},
    "optimizations": {"pgo": false}, "properties": {"A": "1", "B": true}, "environmentVariables": {"K": "v"}}]]
end

local function check(form, world)
  local normal, faults, warnings = manifest.check(form, { world = world or WORLD })
  local by_path = {}
  for _, fault in ipairs(faults) do by_path[fault.path] = fault.message end
  return normal, by_path, warnings, #faults
end

local function plan_of(form)
  local normal = assert(check(form))
  return manifest.plan(normal, assert(manifest.choose(normal, {})), WORLD)
end

-- Without the faults of others: the form with one change must be refused at just this path.
local function refused(path, change)
  local form = base()
  change(form)
  local normal, faults, _, count = check(form)
  assert.is_nil(normal)
  assert.is_string(faults[path], path .. " in " .. json.encode(faults))
  assert.equal(1, count, json.encode(faults))
end

describe("the build form", function()
  it("is given back with what it leaves out, in the words of the catalogue", function()
    local normal = assert(check(base()))
    local x64, arm = normal.targets[1], normal.targets[2]
    assert.same({ "linux-x64", "pro", "linux-arm64", "pro" },
      { x64.architecture, x64.tier, arm.architecture, arm.tier })
    assert.equal("main", normal.repositories[1].ref)
    assert.equal(4, normal.deployment.parallelism)
    assert.equal("manifest-hash", x64.registry.tagStrategy)
    assert.is_true(x64.optimizations.nativeAot)
    assert.is_false(x64.optimizations.pgo)
    assert.is_false(arm.optimizations.nativeAot)
    assert.equal("neon", arm.optimizations.vectorization)
    assert.is_true(arm.optimizations.readyToRun)
    assert.equal("true", normal.properties.B)
  end)

  it("is accepted as it was given back, and changes no more", function()
    local normal = assert(check(base()))
    local text = json.encode(normal)
    assert.same(read(text), read(json.encode(assert(check(read(text))))))
  end)

  it("comes in any case", function()
    local text = json.encode(base()):gsub('"(%l[%a]+)":', function(name) return ('"%s":'):format(name:upper()) end)
    assert.is_table((check(read(text))))
  end)

  it("names all faults at once", function()
    local _, faults, _, count = check(read [[{"targets": [{"architecture": "vax"}, 7], "repositories": [],
      "optimizations": {"trim": "yes"}, "deployment": {"parallelism": 0, "resources": {"timeout": -1}}}]])
    for _, path in ipairs { "$.name", "$.modules", "$.repositories", "$.targets[0].id", "$.targets[0].architecture",
      "$.targets[1]", "$.optimizations.trim", "$.deployment.parallelism", "$.deployment.resources.timeout" } do
      assert.is_string(faults[path], path)
    end
    assert.equal(9, count)
    assert.matches("there are: linux%-arm64", faults["$.targets[0].architecture"])
  end)

  for _, id in ipairs { "-x", ".x", "a/b", "a b", ("x"):rep(65), "" } do
    it("has no target called " .. id, function()
      refused("$.targets[0].id", function(form) form.targets[1].id = id end)
    end)
  end

  it("has names that are unique in any case", function()
    refused("$.targets[1].id", function(form) form.targets[2].id = "X64" end)
    refused("$.repositories[1].name", function(form) form.repositories[2].name = "Server" end)
  end)

  it("has nothing that could become an option or leave its place", function()
    refused("$.repositories[0].ref", function(form) form.repositories[1].ref = "--upload-pack=id" end)
    refused("$.repositories[0].url", function(form) form.repositories[1].url = "-oProxyCommand=id" end)
    refused("$.repositories[0].projects[0]", function(form) form.repositories[1].projects[1] = "../A.csproj" end)
    refused("$.repositories[0].projects[0]", function(form) form.repositories[1].projects[1] = "-p.csproj" end)
    refused("$.targets[0].registry.url", function(form) form.targets[1].registry.url = "-x" end)
    refused("$.targets[0].registry.repository", function(form) form.targets[1].registry.repository = "a/../b" end)
    refused("$.targets[0].registry.tags[0]", function(form) form.targets[1].registry.tags[1] = "-t" end)
    refused("$.optimizations.ilcOptions[0]", function(form) form.optimizations.ilcOptions = { "@/etc/passwd" } end)
    refused("$.properties.A", function(form) form.properties.A = "a\nb" end)
  end)

  it("takes sources over https and ssh only, and from the disk when it is trusted", function()
    for _, url in ipairs { "http://git.example.org/a", "git://h/a", "ext::id", "https://u:p@h/a", "file:///srv/a",
      "https://evil.example?@h/a", "https://evil.example#@h/a", "https://evil.example\\@h/a",
      "https://a@evil.example@h/a", "https://h/a b", "https://h%2e/a" } do
      refused("$.repositories[0].url", function(form) form.repositories[1].url = url end)
    end
    local form = base()
    form.repositories[1].url = "file:///srv/a"
    assert.is_table((manifest.check(form, { trusted = true, world = WORLD })))
  end)

  it("needs a credential for what is private", function()
    refused("$.repositories[1].credentials", function(form) form.repositories[2].credentials = nil end)
  end)

  it("refuses what can't be compiled, and uses ReadyToRun where nothing was asked for", function()
    refused("$.targets[1].optimizations.nativeAot", function(form)
      form.targets[2].optimizations = { nativeAot = true }
    end)
    local form = base()
    form.targets[2].optimizations = { nativeAot = true }
    assert.is_table((check(form, CROSS)))
    for _, name in ipairs { "win-x64", "osx-arm64", "linux-musl-x64" } do
      form = base()
      form.targets = { { id = "a", architecture = name, optimizations = { nativeAot = true } } }
      local _, faults = check(form, CROSS)
      assert.matches("native AOT", faults["$.targets[0].optimizations.nativeAot"])
      form.targets[1].optimizations = nil
      assert.is_false(assert(check(form, CROSS)).targets[1].optimizations.nativeAot)
    end
  end)

  it("refuses flags that exclude each other", function()
    refused("$.targets[0].optimizations.trim", function(form)
      form.targets[1].optimizations = { trim = true, selfContained = false }
    end)
    refused("$.targets[0].optimizations.trim", function(form)
      form.targets[1].optimizations = { nativeAot = true, trim = false }
    end)
    refused("$.targets[0].optimizations.vectorization", function(form)
      form.targets[1].optimizations = { vectorization = "neon" }
    end)
    refused("$.properties.PublishAot", function(form) form.properties.PublishAot = "true" end)
    local form = base()
    form.targets[1].optimizations = { selfContained = false }
    local target = assert(check(form)).targets[1].optimizations
    assert.same({ false, false, false }, { target.selfContained, target.trim, target.nativeAot })
  end)

  it("refuses one tag for the same platform twice, and makes one index of different ones", function()
    refused("$.targets[1].registry.tags[0]", function(form)
      form.targets[2].architecture, form.targets[2].optimizations = "linux-x64", nil
    end)
    refused("$.targets[1].registry.tagStrategy", function(form)
      form.targets[2].architecture, form.targets[2].optimizations = "linux-x64", nil
      for _, target in ipairs(form.targets) do
        target.registry.tags, target.registry.tagStrategy = nil, "semantic-version"
      end
    end)
  end)

  it("has images for Linux only", function()
    refused("$.targets[1].registry", function(form)
      form.targets[2].architecture, form.targets[2].optimizations = "win-x64", nil
    end)
  end)

  it("holds a module's lowest tier against the target's", function()
    refused("$.modules[1]", function(form) form.modules[2] = "Zarr" end)
  end)

  it("warns of what nothing acts on", function()
    local form = base()
    form.deployment.cacheBackend, form.deployment.cacheConnection, form.colour = "redis", "secret-one", "red"
    local _, _, warnings = check(form)
    local paths = {}
    for _, warning in ipairs(warnings) do paths[warning.path] = true end
    assert.same({ ["$.deployment.resources.cpuLimit"] = true, ["$.deployment.cacheBackend"] = true,
      ["$.deployment.cacheConnection"] = true, ["$.colour"] = true }, paths)
    assert.is_nil(json.encode(warnings):find("secret-one", 1, true))
  end)

  it("gives the row what its first target says, unless the request asks for another", function()
    local normal = assert(check(base()))
    assert.same({ tier = "pro", architecture = "linux-x64", cloudProvider = "aws" }, (manifest.choose(normal, {})))
    assert.equal("linux-arm64", manifest.choose(normal, { architecture = "aarch64" }).architecture)
    assert.is_nil((manifest.choose(normal, { cloudProvider = "gcp" })))
  end)
end)

describe("the order form, for dotnet", function()
  local function order(more)
    local form = { name = "Acme", architecture = "amd64", tier = "Professional", modules = { "VectorTiles", "odata" },
      databaseConnectors = { "PostgreSQL" }, cloudTargets = { { provider = "aws" } }, build = { system = "dotnet" },
      source = { repository = "https://git.example.org/server.git" } }
    for name, value in pairs(more or {}) do form[name] = value end
    return form
  end

  it("becomes the same inner form", function()
    local normal = assert(manifest.check(order(), { world = WORLD }))
    local plan = manifest.plan(normal, assert(manifest.choose(normal, {})), WORLD)
    assert.equal("dotnet", plan.system)
    assert.equal("linux-x64", plan.targets[1].architecture)
    assert.same({ ".api", ".core", ".host", ".server", "connectors.postgresql", "data.postgre", "odata", "tiles",
      "vectortiles" }, { table.unpack(plan.selects) })
    local names = {}
    for name in pairs(plan.targets[1]) do names[name] = true end
    for name in pairs(plan_of(base()).targets[2]) do names[name] = names[name] and nil end
    names.settings = nil
    assert.same({}, names)
  end)

  it("knows its modules, connectors, tiers and architectures", function()
    local _, faults = manifest.check(order { modules = { "Teleport" }, databaseConnectors = { "Oracle" }, tier = "core",
      architecture = "vax" }, { world = WORLD })
    local by_path = {}
    for _, fault in ipairs(faults) do by_path[fault.path] = fault.message end
    assert.matches("there are: .*OgcApi", by_path["$.modules[0]"])
    assert.matches("needs the tier enterprise", by_path["$.databaseConnectors[0]"])
    assert.is_string(by_path["$.architecture"])
  end)

  it("makes a target of each cloud", function()
    local clouds = { { provider = "aws", registryUrl = "https://r.example.org/a/b/" }, { provider = "AWS" },
      { provider = "gcp" } }
    local normal = assert(manifest.check(order { cloudTargets = clouds }, { world = WORLD }))
    local plan = manifest.plan(normal, assert(manifest.choose(normal, {})), WORLD)
    assert.same({ "linux-x64-aws", "linux-x64-aws-2", "linux-x64-gcp" },
      { plan.targets[1].id, plan.targets[2].id, plan.targets[3].id })
    assert.same({ "r.example.org", "a/b" }, { plan.targets[1].registry.url, plan.targets[1].registry.repository })
  end)
end)

describe("the hash", function()
  local function hash_of(form, commits) return hash.of(plan_of(form), commits, sha256) end

  local function reversed(list)
    local result = {}
    for index = #list, 1, -1 do result[#result + 1] = list[index] end
    return result
  end

  it("is the same whatever order sets are written in", function()
    local form = base()
    for _, name in ipairs { "repositories", "modules", "targets" } do form[name] = reversed(form[name]) end
    form.repositories[2].projects = reversed(form.repositories[2].projects)
    assert.equal(hash_of(base()), hash_of(form))
  end)

  it("leaves out names, descriptions, costs, credentials and registries", function()
    local form = base()
    form.id, form.name, form.description, form.createdAt = "b2", "Other", "e", "2026-01-31T12:00:00Z"
    form.deployment.costEstimate.buildCost = 7
    form.deployment.parallelism = 1
    form.deployment.resources.timeout = 9
    form.repositories[1].name, form.repositories[2].credentials = "other", "other"
    form.targets[1].registry.tags = { "next" }
    assert.equal(hash_of(base()), hash_of(form))
  end)

  local CHANGES <const> = {
    version = function(f) f.version = "2.1.1" end,
    ["a repository's url"] = function(f) f.repositories[1].url = "https://git.example.org/x.git" end,
    ["a repository's ref"] = function(f) f.repositories[1].ref = "dev" end,
    ["a repository's projects"] = function(f) f.repositories[1].projects[1] = "c/C.csproj" end,
    modules = function(f) f.modules[3] = "Wms" end,
    ["a target's id"] = function(f) f.targets[1].id = "other" end,
    ["a target's provider"] = function(f) f.targets[1].provider = "gcp" end,
    ["a target's compute"] = function(f) f.targets[1].compute = "lambda" end,
    ["a target's architecture"] = function(f) f.targets[1].architecture = "linux-musl-x64" end,
    ["a target's tier"] = function(f) f.targets[1].tier = "enterprise" end,
    pgo = function(f) f.optimizations.pgo = true end,
    dynamicPgo = function(f) f.optimizations.dynamicPgo = false end,
    tieredCompilation = function(f) f.optimizations.tieredCompilation = false end,
    readyToRun = function(f) f.optimizations.readyToRun = false end,
    trim = function(f) f.targets[2].optimizations.trim = true end,
    nativeAot = function(f) f.targets[1].optimizations = { nativeAot = false } end,
    selfContained = function(f) f.targets[2].optimizations.selfContained = false end,
    vectorization = function(f) f.targets[1].optimizations = { vectorization = "avx2" } end,
    optimizationPreference = function(f) f.optimizations.optimizationPreference = "size" end,
    ilcOptions = function(f) f.optimizations.ilcOptions = { "--verbose" } end,
    properties = function(f) f.properties.A = "2" end,
    environmentVariables = function(f) f.environmentVariables.K = "w" end,
    region = function(f) f.deployment.region = "us" end,
    environment = function(f) f.deployment.environment = "production" end,
    cpuLimit = function(f) f.deployment.resources.cpuLimit = 3 end,
    memoryLimit = function(f) f.deployment.resources.memoryLimit = 3 end,
  }
  for name, change in pairs(CHANGES) do
    it("changes with " .. name, function()
      local form = base()
      change(form)
      assert.not_equal(hash_of(base()), hash_of(form))
    end)
  end

  it("counts the commit, not the reference that led to it", function()
    local form = base()
    form.repositories[1].ref = "dev"
    assert.equal(hash_of(base(), { server = "c1", tiles = "c2" }), hash_of(form, { server = "c1", tiles = "c2" }))
    assert.not_equal(hash_of(base(), { server = "c1", tiles = "c2" }), hash_of(base(), { server = "c3", tiles = "c2" }))
  end)
end)

describe("the schema", function()
  it("names each field that the checkers know", function()
    local made = read(json.encode(schema.make()))
    local build, sold = made.anyOf[1], made.anyOf[2]
    for _, row in ipairs(require("manifest.fields").root) do assert.is_table(build.properties[row.name], row.name) end
    for _, name in ipairs(require("manifest.order").names) do assert.is_table(sold.properties[name], name) end
    assert.same({ "name", "repositories", "modules", "targets" }, { table.unpack(build.required) })
  end)
end)
