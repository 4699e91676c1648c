-- What a build of the product costs beside the tools alone: packing beside tar and zstd, images beside skopeo, and,
-- where the .NET SDK is, a warm second build beside a bare `dotnet publish` of the same tree.
local uv = require "luv"
local Forge = require "spec.support.forge"
local Server = require "spec.support.server"
local process = require "spec.support.process"
local support = require "tests.bench.support"

local MEGABYTES <const> = 150

-- Runs in a build, so that both sides see the same files in the same sandbox. A line for each figure.
local PIPELINE <const> = [[
local buildq = require "buildq"
local image, registry = require "package.image", require "package.registry"
local function timed(fn)
  local began = buildq.clock.monotonic()
  fn()
  return buildq.clock.monotonic() - began
end
return { run = function(build)
  build:exec { shell = "mkdir files; cat /usr/lib/*/*.so* /usr/lib/gcc/*/*/* 2>/dev/null | head -c %dM "
    .. "| split -b 1M -a 4 - files/part-" }
  local work = { build = build, time = 0, outputs = { x = "files" }, source = {},
    plan = { name = "bench", version = "1", system = "make", variables = {} } }
  local target = { id = "x", architecture = "linux-x64" }
  local entry = { argv = { "/app/x" }, file = "x" }
  local megabytes = tonumber(build:exec({ shell = "du -sm files | cut -f1", capture = true }).output)
  local packs, tars = {}, {}
  for turn = 1, 3 do
    packs[turn] = timed(function() buildq.archive.pack { dir = "files", to = "a.tar.zst" } end)
    tars[turn] = timed(function() build:exec { shell = "tar -cf - -C files . | zstd -q -f -o b.tar.zst" } end)
  end
  table.sort(packs) table.sort(tars)
  build:log(("figure pack %%f %%f %%d"):format(packs[2], tars[2], megabytes))
  local made
  local ours = timed(function()
    made = image.make(work, target, entry, nil)
    registry.push(work, { url = build.manifest.name, repository = "a/b" }, made, "one", image.name)
  end)
  local alone = timed(function()
    build:exec { shell = "tar -cf - -C files . | gzip >c.tar.gz" }
    build:exec { argv = { "skopeo", "--insecure-policy", "copy", "--quiet",
      ("oci:%%s:%%s"):format(made.layout, image.name),
      ("docker://%%s/c/d:one"):format(build.manifest.name) },
      mounts = { [build.config.TrustedCertificates] = "read" }, -- an empty HOME: it knows of no blob there
      env = { SSL_CERT_FILE = build.config.TrustedCertificates, HOME = "/tmp" } }
  end)
  build:log(("figure image %%f %%f %%d"):format(ours, alone, megabytes))
end }
]]

local function figures(server, forge, report)
  local manifest = server.directory .. "/manifests/bench.json"
  process.write(manifest, ('{"tier":"t","architecture":"linux-x64","cloudTargets":[{"provider":"p"}],"name":"%s",'
    .. '"pipeline":"bench"}'):format(forge.registry))
  local done = server:command({ "run", "bench", "--manifest", manifest, "--directory", process.directory() },
    { seconds = 300 })
  assert(done.code == 0, done.output .. done.errors)
  local function each(name, fn)
    local ours, alone, megabytes = done.output:match(("figure %s ([%%d.]+) ([%%d.]+) (%%d+)"):format(name))
    ours, alone, megabytes = tonumber(ours), tonumber(alone), tonumber(megabytes)
    fn(megabytes / ours, megabytes / alone)
  end
  each("pack", function(ours, alone)
    report { group = "product", name = ("packing %d MB"):format(MEGABYTES), value = ours, unit = "MB/s",
      beside = "tar | zstd", limit = alone, ratio = ours / alone, aim = 0.9, better = "higher" }
  end)
  each("image", function(ours, alone)
    report { group = "product", name = "an image made and pushed", value = ours, unit = "MB/s",
      beside = "tar | gzip, then skopeo copy", limit = alone, ratio = ours / alone, aim = 0.9, better = "higher" }
  end)
end

local function seconds(fn)
  local began = uv.hrtime()
  fn()
  return (uv.hrtime() - began) / 1e9
end

local function dotnet(server, report)
  local product = server.directory .. "/manifests/product"
  process.check { "cp", "-r", "spec/fixtures/product", product }
  process.check { "sh", "-ec", 'cd "$1"; git init -q -b main .; git add -A; git -c user.name=b -c user.email=b@c '
    .. "commit -qm bench", "sh", product }
  local manifest = server.directory .. "/manifests/product.json"
  process.write(manifest, ([[{"name":"bench","repositories":[{"name":"r","url":"file://%s"}],"modules":["src"],
    "targets":[{"id":"x","architecture":"linux-x64","optimizations":{"nativeAot":false,"trim":false,
    "readyToRun":false}}]}]]):format(product))
  local directory = process.directory()
  local function run()
    local done = server:command({ "run", "honua-server", "--manifest", manifest, "--directory", directory },
      { seconds = 600 })
    assert(done.code == 0, done.output .. done.errors)
    return assert(tonumber(done.output:match "x is built, ([%d.]+) s"), done.output)
  end
  run() -- the packages come
  local env = uv.os_environ()
  env.NUGET_PACKAGES, env.DOTNET_CLI_HOME = directory .. "/state/shared/nuget/shop/packages", directory
  local builds, wholes, bares = {}, {}, {}
  for turn = 1, 3 do
    wholes[turn] = seconds(function() builds[turn] = run() end)
    local tree = process.directory()
    process.check { "cp", "-r", product .. "/.", tree }
    bares[turn] = seconds(function()
      process.check({ "dotnet", "publish", tree .. "/src/Sample.Server/Sample.Server.csproj", "-c", "Release", "-r",
        "linux-x64", "--self-contained", "true", "--artifacts-path", tree .. "/a", "-o", tree .. "/o", "--nologo" },
        { env = env, seconds = 600 })
    end)
  end
  local bare = support.median(bares)
  for name, list in pairs { ["dotnet publish in a build"] = builds, ["a whole warm second build"] = wholes } do
    local value = support.median(list)
    report { group = "product", name = name, value = value, unit = "s", beside = "dotnet publish of the same tree",
      limit = bare, ratio = value / bare, aim = 1.05, better = "lower" }
  end
end

return function(report)
  for _, name in ipairs { "umoci", "skopeo", "docker-registry", "fcgiwrap", "nginx" } do
    if not support.has(name) then
      io.stderr:write("bench: product is left out, there is no " .. name .. "\n")
      return
    end
  end
  local forge = Forge.start()
  local server = Server.new { database = false, config = { BuildQueue = forge:config() },
    scripts = { ["pipelines/bench.lua"] = PIPELINE:format(MEGABYTES) } }
  figures(server, forge, report)
  if support.has "dotnet" then dotnet(server, report)
  else io.stderr:write "bench: a .NET build is left out, there is no dotnet\n" end
end
