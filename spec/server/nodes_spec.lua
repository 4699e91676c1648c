-- Servers that are not alike: what each offers, what builds need, and servers that an operator drains.
local json = require "dkjson"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local SCRIPTS <const> = builds.scripts {
  ["pipelines/on_gpu.lua"] = [[return { needs = { labels = { "gpu" } }, run = function(build) build:log "ran" end }]],
}

local function node_of(server, id)
  return server:sql(([[select n.url from build_attempts a join nodes n on n.id = a.node_id
    where a.build_id = '%s' order by attempt desc limit 1]]):format(id)):gsub("^http://", "")
end

local function manifest(needs) return { version = "1.0", name = "spec", needs = needs } end

local function start(labels, database)
  return Server.start { scripts = SCRIPTS, database = database, manifests = { ["plain.json"] = manifest { "gpu" } },
    config = { BuildQueue = { Labels = labels, MaxConcurrentBuilds = 4, PollIntervalSeconds = 1 } } }
end

describe("a queue with servers that are not alike", function()
  local plain, special

  setup(function()
    plain = start({}, nil)
    special = start({ "gpu", "region=eu" }, plain.database)
    special:wait_for(function() return special:log():find("joined the cluster", 1, true) end, 20)
  end)
  teardown(function()
    plain:stop()
    special:stop()
  end)

  it("lists them with what they offer", function()
    local nodes = plain:get("/nodes").json.nodes
    assert.equal(2, #nodes)
    local by_url = {}
    for _, node in ipairs(nodes) do by_url[node.url] = node end
    local labels = table.concat(by_url["http://" .. special.address].labels, " ")
    for _, label in ipairs { "os=linux", "arch=", "gpu", "region=eu", "gcc", "git" } do
      assert.truthy(labels:find(label, 1, true), label)
    end
    assert.falsy(table.concat(by_url["http://" .. plain.address].labels, " "):find("gpu", 1, true))
    assert.equal("live", nodes[1].state)
    assert.equal(4, nodes[1].slots)
    local shown = plain:command { "nodes", "list", "--server", "http://" .. plain.address }
    assert.equal(0, shown.code, shown.errors)
    assert.truthy(shown.output:find("region=eu", 1, true))
  end)

  it("gives a build to a server that offers what its manifest and its pipeline need", function()
    for _ = 1, 6 do
      local id = builds.run(plain, { manifest = manifest { "gpu", "os=linux" } }).id
      assert.equal(special.address, node_of(plain, id))
      id = builds.run(plain, { pipeline = "on_gpu" }).id
      assert.equal(special.address, node_of(plain, id))
    end
    assert.same({ "gpu", "region=eu" },
      builds.run(plain, { pipeline = "on_gpu", manifest = manifest { "region=eu" } }).needs)
  end)

  it("puts a row of plain SQL back that came to the wrong server", function()
    local inserted = plain:sql [[insert into build_queue (customer_id, customer_name, customer_email,
      configuration_name, manifest_path, tier, architecture, cloud_provider)
      select 'c1', 'C', 'c@example.org', 'main', 'plain.json', 'pro', 'linux-x64', 'aws'
      from generate_series(1, 6) returning id]]
    for id in inserted:gmatch "%x+%-[%x-]+" do
      -- It has nothing to build, which is where it ends; but not on the wrong server.
      local build = builds.await(plain, id, "failed")
      assert.equal(special.address, node_of(plain, id))
      assert.same({ "gpu" }, build.needs)
    end
  end)

  it("says so when none offers it, and begins when one does", function()
    local answer = plain:post("/builds", builds.request { pipeline = "on_gpu", manifest = manifest { "quantum" } })
    assert.equal(202, answer.status)
    assert.truthy(answer.json.warnings[1].message:find("no server offers quantum now", 1, true), answer.body)
    local id = answer.json.jobId
    local build = plain:get("/builds/" .. id).json
    assert.same({ "gpu", "quantum" }, build.needs)
    assert.same({ "quantum" }, build.unmetNeeds)
    local explained = plain:get("/builds/" .. id .. "/explain").json
    assert.equal("nodes", explained.heldBackBy[1].kind)
    assert.truthy(explained.summary:find("no server that takes builds offers quantum", 1, true), explained.summary)
    local status = plain:command { "status", id, "--server", "http://" .. plain.address }
    assert.truthy(status.output:find("no server offers +quantum"), status.output)
    plain:wait_for(function()
      return plain:log():find("builds wait for a server that can take them.*missing=quantum")
        or special:log():find("builds wait for a server that can take them.*missing=quantum")
    end, 90, "the log to say so")
    -- It holds nobody up.
    builds.run(plain, { pipeline = "quick" })
    builds.run(plain, { pipeline = "on_gpu" })
    local third = start({ "gpu", "quantum" }, plain.database)
    builds.await(plain, id, "success")
    assert.equal(third.address, node_of(plain, id))
    third:stop()
  end)

  it("refuses what is no label", function()
    local answer = plain:post("/builds", builds.request { manifest = manifest { "a b", 'x"y' } })
    assert.equal(400, answer.status)
    assert.equal("$.manifest.needs[0]", answer.json.errors[1].path)
    local checked = Server.new { config = { BuildQueue = { Labels = { "-x" } } } }:command { "check" }
    assert.equal(1, checked.code)
    assert.truthy((checked.output .. checked.errors):find("a letter or a digit first", 1, true))
  end)

  it("lets a drained server finish what it runs, and start nothing until it is resumed", function()
    local running = builds.submit(plain, { pipeline = "gate", manifest = manifest { "gpu" } })
    builds.await(plain, running, "building")
    local here = "http://" .. plain.address
    local drained = plain:command { "nodes", "drain", special.address, "--server", here, "--json" }
    assert.equal(0, drained.code, drained.errors)
    assert.equal("drained", json.decode(drained.output).state)
    special:wait_for(function() return special:log():find("drained: no build starts here", 1, true) end, 20)
    local waiting = builds.submit(plain, { pipeline = "on_gpu" })
    for _ = 1, 4 do assert.equal(plain.address, node_of(plain, builds.run(plain, { pipeline = "quick" }).id)) end
    assert.equal("pending", plain:get("/builds/" .. waiting).json.status)
    assert.same({ "gpu" }, plain:get("/builds/" .. waiting).json.unmetNeeds)
    local ready = special:get "/readyz"
    assert.equal(200, ready.status)
    assert.truthy(ready.body:find("this server is drained", 1, true))
    builds.open_gate(special, running)
    builds.await(plain, running, "success")
    -- A lost lease ends no drain.
    special:sql(("update nodes set state = 'dead', ended_at = now() where url = 'http://%s'; notify buildq_control")
      :format(special.address))
    special:wait_for(function()
      return special:sql(([[select state from nodes where url = 'http://%s' and drained_at is not null
        and state <> 'dead']]):format(special.address)) == "draining"
    end, 30, "it to join anew, drained")
    assert.equal("pending", plain:get("/builds/" .. waiting).json.status)
    assert.equal(0, plain:command { "nodes", "resume", special.address, "--server", "http://" .. plain.address }.code)
    builds.await(plain, waiting, "success")
    assert.equal(1, plain:command({ "nodes", "drain", "nobody", "--server", "http://" .. plain.address }).code)
    assert.equal(404, plain:post("/nodes/00000000-0000-7000-8000-000000000001/drain").status)
    local dead = plain:sql "select id from nodes where state = 'dead' limit 1"
    assert.equal(409, plain:post("/nodes/" .. dead .. "/drain").status)
    assert.equal(2, process.run({ Server.program(), "nodes" }).code)
  end)
end)
