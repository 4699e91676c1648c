local json = require "spec.support.json"
local manifest = require "manifest"

local function read(text) return assert(json.decode(text)) end

local function messages(list)
  local by_path = {}
  for _, fault in ipairs(list) do by_path[fault.path] = fault.message end
  return by_path
end

local ORDER <const> = [[{
  "Version": "1.0", "NAME": "acme", "architecture": "linux-x64", "Modules": ["Core", "OData"],
  "databaseConnectors": ["PostgreSQL"], "tier": "Pro", "tags": [],
  "cloudTargets": [{"Provider": "aws", "region": "eu-west-1", "instanceType": "t4g.small",
                    "registryUrl": "registry.example.org/acme", "configuration": {"Az": 2}}],
  "resources": {"MinCpu": 1, "recommendedCpu": 2}, "environmentVariables": {"Log_Level": "debug", "N": 3},
  "generatedAt": "2025-01-31T12:00:00Z",
  "source": {"repository": "https://git.example.org/server.git", "ref": "v1.2"},
  "build": {"System": "Make", "targets": ["all"]}
}]]

describe("manifest.check", function()
  it("gives an order form back in one shape, whatever case its names came in", function()
    local normal, faults = manifest.check(read(ORDER))
    assert.same({}, faults)
    assert.equal("acme", normal.name)
    assert.same({ "Core", "OData" }, { table.unpack(normal.modules) })
    assert.equal("aws", normal.cloudTargets[1].provider)
    assert.equal(2, normal.cloudTargets[1].configuration.Az)
    assert.equal(1, normal.resources.minCpu)
    assert.equal("debug", normal.environmentVariables.Log_Level)
    assert.equal("3", normal.environmentVariables.N)
    assert.equal("make", normal.build.system)
    assert.equal("[]", json.encode(normal.tags))
  end)

  it("accepts what it gave, and changes nothing in it", function()
    local normal = manifest.check(read(ORDER))
    local again = manifest.check(read(json.encode(normal)))
    assert.same(read(json.encode(normal)), read(json.encode(again)))
  end)

  it("warns of what nothing acts on yet", function()
    local _, _, warnings = manifest.check(read(ORDER))
    local by_path = messages(warnings)
    for _, path in ipairs { "$.modules", "$.databaseConnectors" } do assert.is_string(by_path[path], path) end
    assert.is_nil(by_path["$.source"])
    assert.equal(2, #warnings)
  end)

  it("warns of a name that it does not know", function()
    local _, _, warnings = manifest.check(read [[{"arcitecture": "x", "pipeline": "own",
      "cloudTargets": [{"provider": "aws"}, {"provider": "azure"}]}]])
    local by_path = messages(warnings)
    assert.matches("not a name", by_path["$.arcitecture"])
    assert.equal(1, #warnings)
  end)

  it("warns that there is nothing to build, for the pipeline that needs it", function()
    local _, _, warnings = manifest.check(read "{}")
    assert.is_string(messages(warnings)["$.source"])
    _, _, warnings = manifest.check(read "{}", { pipeline = "own" })
    assert.same(0, #warnings)
  end)

  it("names all faults at once, each with its path", function()
    local normal, faults = manifest.check(read [[{
      "version": "2.0", "name": 5, "modules": "Core", "cloudTargets": [{"region": "x"}, 7],
      "resources": {"minCpu": -1, "minMemoryGb": 8, "recommendedMemoryGb": 4},
      "environmentVariables": {"A B": "x", "C": []}, "source": {}, "build": {"system": "ant"}}]])
    assert.is_nil(normal)
    local by_path = messages(faults)
    for _, path in ipairs {
      "$.version", "$.name", "$.modules", "$.cloudTargets[0].provider", "$.cloudTargets[1]", "$.resources.minCpu",
      "$.resources.recommendedMemoryGb", '$.environmentVariables["A B"]', "$.environmentVariables.C", "$.source",
      "$.build.system",
    } do
      assert.is_string(by_path[path], path)
    end
    assert.equal(11, #faults)
  end)

  it("refuses what is no object", function()
    for _, text in ipairs { "[]", "5", '"x"' } do
      local normal, faults = manifest.check(read(text))
      assert.is_nil(normal)
      assert.equal("$", faults[1].path)
    end
  end)

  it("never repeats the value of a variable or a setting", function()
    local _, faults = manifest.check(read [[{"environmentVariables": {"KEY": "hunter2\u0000"},
      "cloudTargets": [{"provider": "a", "configuration": {"k": "hunter2\u0000"}}]}]])
    assert.equal(2, #faults)
    assert.is_nil(json.encode(faults):find("hunter2", 1, true))
  end)

  it("bounds lists and texts", function()
    local many = {}
    for i = 1, 501 do many[i] = "m" .. i end
    local _, faults = manifest.check { modules = many, name = ("x"):rep(256), tier = ("x"):rep(51) }
    local by_path = messages(faults)
    assert.matches("501 items", by_path["$.modules"])
    assert.matches("256 characters", by_path["$.name"])
    assert.matches("at most 50", by_path["$.tier"])
  end)
end)

describe("a manifest's source", function()
  local function check_source(source, trusted)
    local normal, faults = manifest.check({ source = source }, { trusted = trusted })
    return normal and normal.source, messages(faults)
  end

  for _, repository in ipairs {
    "https://git.example.org/a.git", "git@git.example.org:a/b.git", "ssh://git@git.example.org/a", "git://h/a",
  } do
    it("may be " .. repository, function()
      assert.equal(repository, check_source({ repository = repository }).repository)
    end)
  end

  for _, repository in ipairs {
    "-oProxyCommand=id", "ext::sh -c id", "--upload-pack=id", "ssh://-oProxyCommand=id/x", "-x@host:path",
    "git@-oProxyCommand=id:x", "https://user:secret@example.org/a", "ftp://example.org/a", "https:///a",
  } do
    it("is never " .. repository, function()
      local source, faults = check_source({ repository = repository }, true)
      assert.is_nil(source)
      assert.is_string(faults["$.source.repository"])
    end)
  end

  for _, repository in ipairs { "/srv/git/a", "./a", "file:///srv/a", "FILE:/srv/a", "a.bundle" } do
    it("is on disk for trusted manifests only: " .. repository, function()
      local _, faults = check_source({ repository = repository }, false)
      assert.matches("ManifestDirectory", faults["$.source.repository"])
      assert.equal(repository, check_source({ repository = repository }, true).repository)
    end)
  end

  it("is a local path for trusted manifests only", function()
    local _, faults = check_source({ path = "tree" }, false)
    assert.matches("ManifestDirectory", faults["$.source.path"])
    assert.equal("tree", check_source({ path = "tree" }, true).path)
  end)

  it("has no .. in a path, and a relative one in a repository", function()
    for _, path in ipairs { "../x", "a/../../x", "-x" } do
      assert.is_nil((check_source({ path = path }, true)), path)
    end
    assert.is_nil((check_source({ repository = "a/../../x" }, true)))
    local remote = "https://git.example.org/a"
    assert.is_nil((check_source({ repository = remote, path = "/etc" })))
    assert.equal("server", check_source({ repository = remote, path = "server" }).path)
  end)

  for _, ref in ipairs { "-x", "a..b", "a b", "refs/heads/*:refs/heads/*", "HEAD~1", "a@{1}" } do
    it("is not taken from the reference " .. ref, function()
      local _, faults = check_source { repository = "https://git.example.org/a", ref = ref }
      assert.is_string(faults["$.source.ref"])
    end)
  end
end)

describe("a manifest's build", function()
  local function check_build(build, trusted)
    local normal, faults = manifest.check({ build = build }, { trusted = trusted })
    return normal and normal.build, messages(faults)
  end

  it("has commands only when it is trusted", function()
    local build = { system = "command", commands = { "make", { "cc", "-c", "a b.c" } } }
    local _, faults = check_build(build, false)
    assert.is_string(faults["$.build.commands"])
    assert.equal("a b.c", check_build(build, true).commands[2][3])
  end)

  it("needs a command when that is the system", function()
    local _, faults = check_build({ system = "command" }, true)
    assert.is_string(faults["$.build.commands"])
  end)

  it("has targets that make can't take for options or variables", function()
    for _, target in ipairs { "-f/etc/passwd", "--eval=x", "CC=evil", "a b", "$(id)" } do
      local _, faults = check_build { system = "make", targets = { target } }
      assert.is_string(faults["$.build.targets[0]"], target)
    end
    assert.equal("lib/a.so", check_build({ system = "make", targets = { "lib/a.so" } }).targets[1])
  end)

  it("refuses an empty argument list", function()
    local _, faults = check_build({ system = "command", commands = read "[[]]" }, true)
    assert.is_string(faults["$.build.commands[0]"])
  end)
end)

describe("manifest.choose", function()
  local normal = {
    tier = "Pro", architecture = "linux-x64", cloudTargets = { { provider = "aws" }, { provider = "azure" } },
  }

  it("takes what the request leaves out from the manifest", function()
    assert.same({ tier = "Pro", architecture = "linux-x64", cloudProvider = "aws" }, (manifest.choose(normal, {})))
  end)

  it("takes the request's choice among the manifest's, in the manifest's spelling", function()
    local chosen = manifest.choose(normal, { tier = "pro", cloudProvider = "Azure" })
    assert.equal("Pro", chosen.tier)
    assert.equal("azure", chosen.cloudProvider)
  end)

  it("refuses what is not among them", function()
    local chosen, faults = manifest.choose(normal, { architecture = "linux-arm64", cloudProvider = "gcp" })
    assert.is_nil(chosen)
    local by_path = messages(faults)
    assert.matches("linux%-x64", by_path["$.architecture"])
    assert.matches("aws, azure", by_path["$.cloudProvider"])
  end)

  it("refuses what neither names, and takes what only the request names", function()
    local chosen, faults = manifest.choose({ cloudTargets = {} }, { tier = "Pro" })
    assert.is_nil(chosen)
    assert.equal(2, #faults)
    assert.is_table((manifest.choose({ cloudTargets = {} }, { tier = "a", architecture = "b", cloudProvider = "c" })))
  end)
end)
