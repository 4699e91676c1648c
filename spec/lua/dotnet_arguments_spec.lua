-- The command lines of `dotnet publish`, held equal to files that a person can read: spec/fixtures/dotnet/*.txt, one
-- argument a line. BUILDQ_GOLDEN=write writes them anew; then look at the difference.
local arguments = require "dotnet.arguments"
local catalogue = require "catalogue"
local manifest = require "manifest"

local DIRECTORY <const> = "spec/fixtures/dotnet/"
local WORLD <const> = { machine = "linux-x64", has_program = function() return true end }
local OPTIONS <const> = { project = "/w/source/src/Server/Server.csproj", output = "/w/publish/t",
  artifacts = "/w/artifacts/t", workspace = "/w" }

local function argv(architecture, optimizations, more, nuget_source)
  local form = { name = "n", modules = { "a" },
    repositories = { { name = "r", url = "https://git.example.org/r.git" } },
    targets = { { id = "t", architecture = architecture, optimizations = optimizations } } }
  for name, value in pairs(more or {}) do form[name] = value end
  local normal, faults = manifest.check(form, { world = WORLD })
  assert(normal, faults[1] and faults[1].path .. " " .. faults[1].message)
  local plan = manifest.plan(normal, assert(manifest.choose(normal, {})), WORLD)
  local target, options = plan.targets[1], {}
  for name, value in pairs(OPTIONS) do options[name] = value end
  if #target.optimizations.ilcOptions > 0 then options.targets_file = "/w/artifacts/t/ilc.targets" end
  options.nuget_source = nuget_source
  local here, there = catalogue.architectures[WORLD.machine], catalogue.architectures[target.architecture]
  return arguments.publish(target, plan.properties, options, there.cpu ~= here.cpu and there.triplet or nil)
end

local function golden(name, list)
  local path = DIRECTORY .. name .. ".txt"
  local text = table.concat(list, "\n") .. "\n"
  if os.getenv "BUILDQ_GOLDEN" == "write" then
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
  end
  local file = assert(io.open(path), path .. " is missing")
  local expected = file:read "a"
  file:close()
  assert.equal(expected, text)
end

describe("dotnet publish", function()
  for architecture in pairs(catalogue.architectures) do
    it("for " .. architecture, function() golden("architecture-" .. architecture, argv(architecture)) end)
  end

  local CASES <const> = {
    ["pgo-false"] = { nativeAot = false, pgo = false },
    ["dynamicPgo-false"] = { nativeAot = false, dynamicPgo = false },
    ["tieredCompilation-false"] = { nativeAot = false, tieredCompilation = false },
    ["readyToRun-false"] = { nativeAot = false, readyToRun = false },
    ["trim-false"] = { trim = false },
    ["nativeAot-false"] = { nativeAot = false },
    ["selfContained-false"] = { selfContained = false },
    ["vectorization-avx2"] = { vectorization = "avx2" },
    ["vectorization-avx512"] = { vectorization = "avx512" },
    ["vectorization-avx2-ready-to-run"] = { vectorization = "avx2", nativeAot = false },
    ["optimizationPreference-speed"] = { optimizationPreference = "speed" },
    ["optimizationPreference-size"] = { optimizationPreference = "size" },
    ["optimizationPreference-balanced"] = { optimizationPreference = "balanced" },
    ["ilcOptions"] = { ilcOptions = { "--verbose", "--codegenopt:a=b" } },
  }
  for name, optimizations in pairs(CASES) do
    it("with " .. name, function() golden("option-" .. name, argv("linux-x64", optimizations)) end)
  end

  it("with vectorization neon", function()
    golden("option-vectorization-neon", argv("linux-arm64", { vectorization = "neon", nativeAot = false }))
  end)

  it("with properties, whose values MSBuild does not take apart", function()
    golden("properties", argv("linux-x64", { nativeAot = false },
      { properties = { Product = "a;b,c=$(d) 100 % @(e) 'f' \"g\"", InvariantGlobalization = true } }))
  end)

  it("from a source of packages", function()
    golden("nuget-source", argv("linux-x64", { nativeAot = false }, nil, "/srv/packages"))
  end)

  it("gives the native compiler its options in a file", function()
    assert.equal([[
<Project>
  <ItemGroup>
    <IlcArg Include="--a=&lt;&quot;&amp;" />
    <IlcArg Include="-b" />
  </ItemGroup>
</Project>
]], arguments.targets_file { '--a=<"&', "-b" })
  end)
end)
