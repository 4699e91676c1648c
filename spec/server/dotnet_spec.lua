-- The fixture product through the whole server, with the real .NET SDK: published, started, asked; and an order for it.
-- Without the SDK there is nothing to try: each test is pending with that reason.
local uv = require "luv"
local Forge = require "spec.support.forge"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"
local socket = require "socket"

local SDK <const> = uv.fs_stat "/usr/bin/dotnet" ~= nil
local SECONDS <const> = 900 -- a first build downloads the runtime

local forge, server, commit

-- BUILDQ_DOTNET_MODES=all tries every mode; that is some minutes.
local ALL <const> = os.getenv "BUILDQ_DOTNET_MODES" == "all"

setup(function()
  if not SDK then return end
  forge = Forge.start()
  commit = forge:repository("public/product", "spec/fixtures/product")
  forge:repository("public/broken", "spec/fixtures/product", function(tree)
    process.write(tree .. "/src/Sample.Core/Broken.cs", "namespace Sample.Core;\npublic class Broken { int x = ; }\n")
  end)
  server = Server.start {
    config = { BuildQueue = forge:config { MaxRetryAttempts = 0, DiskReserveMegabytes = 0 } },
    scripts = { ["lib/product.lua"] = ([[
      return { source = { repository = %q, ref = "main" }, build = { system = "dotnet" } }
    ]]):format(forge.git .. "public/product.git") },
  }
end)

local function form(optimizations, repository)
  return { pipeline = "honua-server", manifest = {
    name = "Sample", version = "2.1.0",
    repositories = { { name = "product", url = forge.git .. (repository or "public/product.git") } },
    modules = { ".Core", "tiles", ".Server" },
    targets = { { id = "x64", architecture = "linux-x64", provider = "aws", tier = "pro",
      optimizations = optimizations } },
  } }
end

local function unpacked(build, name)
  local directory = process.directory()
  process.write(directory .. "/a", server:get(("/downloads/%s/%s.tar.zst"):format(build.id, name)).body)
  process.check { "tar", "--zstd", "-xf", directory .. "/a", "-C", directory }
  return directory .. "/" .. name
end

-- Starts the published server and asks it.
local function answers(argv)
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  local env = uv.os_environ()
  env.ASPNETCORE_URLS = "http://127.0.0.1:" .. math.tointeger(tonumber(port))
  local child = process.spawn(argv, { env = env })
  local ok, failure = pcall(process.wait_for, function()
    local client = socket.connect("127.0.0.1", port)
    if not client then return false end
    client:send "GET /healthz HTTP/1.0\r\n\r\n"
    return (client:receive "*a" or ""):find "ok$" ~= nil
  end, 60, function() return "the published server: " .. child.output .. child.errors end)
  child:kill "sigkill"
  child:wait()
  assert(ok, failure)
end

local function try(name, fn)
  it(name, function()
    if not SDK then return pending "the .NET SDK is not here" end
    return fn()
  end)
end

describe("a .NET product", function()
  local PLAIN <const> = { selfContained = false, readyToRun = false } -- the quickest
  local first

  try("is published and answers; its bill of materials names what is in it", function()
    first = builds.submit(server, form(PLAIN))
    local build = builds.await(server, first, "success", SECONDS)
    assert.matches("src/Sample.Server/Sample.Server.csproj %(a program%)", builds.log(server, first))
    local record = server:get(("/downloads/%s/build.json"):format(first)).json.provenance
    assert.equal(commit, record.source.commit)
    assert.matches("^%d+%.%d+%.%d+", record.tools.dotnet)
    answers { unpacked(build, "Sample-x64") .. "/Sample.Server" }
    local bill = server:get(("/downloads/%s/Sample-x64.cdx.json"):format(first)).json
    assert.equal("CycloneDX", bill.bomFormat)
    local names = {}
    for _, component in ipairs(bill.components) do names[component.name] = component.type end
    assert.equal("library", names["Sample.Core"])
    assert.equal("library", names["Sample.Tiles"])
  end)

  try("compiles to the same bytes the second time", function()
    local again = builds.run(server, form(PLAIN), "success", SECONDS)
    local function sums(of)
      return server:get(("/downloads/%s/SHA256SUMS"):format(of)).body:match "%x+  Sample%-x64%.tar%.zst"
    end
    assert.equal(sums(first), sums(again.id))
  end)

  try("that does not compile names the target, the file and the error, and is not tried again", function()
    local build = builds.run(server, form(PLAIN, "public/broken.git"), "failed", SECONDS)
    assert.matches("target x64: src/Sample.Core/Broken.cs%(2,31%): error CS1525: ", build.errorMessage)
    assert.is_nil(build.errorMessage:find(server.directory, 1, true))
    assert.matches("will not be tried again", server:log())
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
    ["trimmed"] = { nativeAot = false, readyToRun = false },
    ["native AOT"] = { nativeAot = true },
  } do
    if ALL then
      try("in the mode " .. name .. " answers", function()
        local build = builds.run(server, form(optimizations), "success", SECONDS)
        answers { unpacked(build, "Sample-x64") .. "/Sample.Server" }
      end)
    end
  end

  if ALL then
    try("is ordered by its modules alone", function()
      local build = builds.run(server, { pipeline = "honua-server", manifest = {
        name = "Sample", architecture = "linux-x64", tier = "pro", modules = { "VectorTiles" },
        cloudTargets = { { provider = "aws" } },
      } }, "success", SECONDS)
      answers { unpacked(build, "Sample-linux-x64") .. "/Sample.Server" }
    end)
  end
end)
