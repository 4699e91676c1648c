local json = require "spec.support.json"
local intake = require "intake"

local files, world

before_each(function()
  files = {
    ["order.json"] = [[{"tier": "Pro", "architecture": "linux-x64", "cloudTargets": [{"provider": "aws"}],
      "source": {"path": "tree"}, "build": {"system": "command", "commands": ["true"]}}]],
    ["broken.json"] = "{",
    ["own.json"] = [[{"tier": "Pro", "architecture": "a", "pipeline": "own", "cloudTargets": [{"provider": "aws"}]}]],
    ["bad.json"] = [[{"version": "9"}]],
  }
  world = {
    read_manifest = function(path)
      if files[path] then return files[path] end
      return nil, { code = "not_found", message = ("there is no manifest %s"):format(path) }
    end,
    pipelines = function() return { "honua-server", "own", "third" } end,
    allow_inline_commands = false,
    credentials = { git = { hosts = { "git.example.org" }, customers = { "c" } } },
    has_program = function() return false end,
    encode = json.encode, decode = json.decode,
    sha256 = function() return ("5"):rep(64) end,
  }
end)

local function submit(changes)
  local body = { customerId = "c", customerName = "C", customerEmail = "c@d", configurationName = "default" }
  for name, value in pairs(changes) do body[name] = value end
  return intake.submission(body, world)
end

local function inline(text) return assert(json.decode(text)) end

describe("intake.submission", function()
  it("makes a row of a request and the manifest it names", function()
    local accepted = assert(submit { manifestPath = "order.json", priority = "high" })
    local fields = accepted.fields
    assert.equal("order.json", fields.manifestPath)
    assert.is_true(fields.trusted)
    assert.same({ "Pro", "linux-x64", "aws" }, { fields.tier, fields.architecture, fields.cloudProvider })
    assert.equal(2, fields.priority)
    assert.equal("honua-server", fields.pipeline)
    assert.equal("true", fields.manifest.build.commands[1])
    assert.equal(0, #accepted.warnings)
  end)

  it("names an inline manifest by its hash and doesn't trust it", function()
    local manifest = [[{"tier": "t", "architecture": "a", "cloudTargets": [{"provider": "p"}], "tags": []}]]
    local fields = assert(submit { manifest = inline(manifest) }).fields
    assert.equal("inline:" .. ("5"):rep(64), fields.manifestPath)
    assert.is_false(fields.trusted)
    local _, refusal = submit { manifest = inline(files["order.json"]) }
    assert.equal(400, refusal.status)
    assert.equal("$.manifest.source.path", refusal.json.errors[1].path)
    world.allow_inline_commands = true
    assert.is_true(assert(submit { manifest = inline(files["order.json"]) }).fields.trusted)
  end)

  it("lets the request's pipeline win over the manifest's", function()
    assert.equal("own", assert(submit { manifestPath = "own.json" }).fields.pipeline)
    assert.equal("third", assert(submit { manifestPath = "own.json", pipeline = "third" }).fields.pipeline)
  end)

  it("refuses an unknown pipeline with 422 and the known ones", function()
    local accepted, refusal = submit { manifestPath = "order.json", pipeline = "nope" }
    assert.is_nil(accepted)
    assert.equal(422, refusal.status)
    assert.matches("honua%-server, own", refusal.json.detail)
  end)

  for _, name in ipairs { "missing.json", "broken.json", "bad.json" } do
    it("answers 400 for " .. name, function()
      local accepted, refusal = submit { manifestPath = name }
      assert.is_nil(accepted)
      assert.equal(400, refusal.status)
      assert.is_true(#refusal.json.errors > 0)
    end)
  end

  it("names the faults of the manifest together with the request's", function()
    local function paths(changes)
      local _, refusal = submit(changes)
      assert.equal(400, refusal.status)
      local found = {}
      for n, fault in ipairs(refusal.json.errors) do found[n] = fault.path end
      return found
    end
    assert.same({ "$.priority", "$.manifestPath" }, paths { priority = 7, manifestPath = "missing.json" })
    assert.same({ "$.priority", "$.manifest.version" },
      paths { priority = 7, manifest = inline(files["bad.json"]) })
    assert.same({ "$.priority" }, paths { priority = 7, manifestPath = "order.json" })
    assert.same({ "$.manifest" }, paths { manifestPath = "order.json", manifest = inline "{}" })
  end)

  it("refuses a choice that the manifest does not offer", function()
    local _, refusal = submit { manifestPath = "order.json", cloudProvider = "gcp" }
    assert.equal(400, refusal.status)
    assert.equal("$.cloudProvider", refusal.json.errors[1].path)
  end)

  it("warns of an architecture that compilers here don't make", function()
    world.machine = "linux-arm64"
    local accepted = submit { manifestPath = "order.json" }
    assert.equal("$.architecture", accepted.warnings[1].path)
    assert.matches("linux%-arm64", accepted.warnings[1].message)
    world.machine = "linux-x64"
    assert.equal(0, #submit({ manifestPath = "order.json" }).warnings)
    world.machine = "linux-arm64" -- a pipeline of one's own knows what it does
    assert.equal(0, #submit({ manifestPath = "own.json" }).warnings)
  end)

  it("passes on the manifest's warnings", function()
    local accepted = assert(submit { manifest = inline [[{"tier": "t", "architecture": "a", "modules": ["m"],
      "cloudTargets": [{"provider": "p"}]}]], pipeline = "own" })
    assert.equal("$.manifest.modules", accepted.warnings[1].path)
  end)
end)

describe("intake.adopt", function()
  local function row(path, changes)
    local result = { manifestPath = path, tier = "Pro", architecture = "linux-x64", cloudProvider = "aws" }
    for name, value in pairs(changes or {}) do result[name] = value end
    return result
  end

  it("accepts a row that fits its manifest", function()
    local adopted = assert(intake.adopt(row "order.json", world))
    assert.equal("honua-server", adopted.pipeline)
    assert.is_true(adopted.trusted)
    assert.equal("command", adopted.manifest.build.system)
  end)

  it("says in one sentence why another can't be built", function()
    local reasons = { ["missing.json"] = "no manifest", ["broken.json"] = "not JSON", ["bad.json"] = "version" }
    for path, words in pairs(reasons) do
      local adopted, message = intake.adopt(row(path), world)
      assert.is_nil(adopted)
      assert.matches(words, message)
    end
    local _, message = intake.adopt(row("order.json", { tier = "Basic" }), world)
    assert.matches("%$%.tier", message)
    world.pipelines = function() return {} end
    _, message = intake.adopt(row "order.json", world)
    assert.matches("pipeline", message)
  end)
end)
