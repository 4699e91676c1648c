-- A policy that chooses which of the due builds go first, on a running server: seen in the order of their starts.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

local server

-- Makes a choose hook with this body the active one; nil: none.
local function policy(body, facts)
  local before = server:get("/readyz").json.generation
  local files = { ["policies/active.lua"] = body and "return { choose = 'mine' }" or "return {}" }
  if body then
    local text = "return { facts = { choose = { %s } }, choose = function(candidates, facts)\n%s\nend }"
    files["policies/mine.lua"] = text:format(facts or "", body)
  end
  server:write("scripts", files)
  server:wait_for(function() return server:get("/readyz").json.generation ~= before end, 10, "the policy")
end

local function failures()
  return tonumber(server:get("/metrics").body:match('buildq_policy_failures_total{hook="choose"} (%d+)') or 0)
end

local function paused(fn)
  assert.equal(200, server:post("/queue/pause", { reason = "spec" }).status)
  local result = fn()
  assert.equal(200, server:post("/queue/resume", {}).status)
  return result
end

-- Submits builds of these names while the queue is paused, and lets them run; the names in the order of their starts.
local function order_of(...)
  local names = { ... }
  local ids = paused(function()
    local ids = {}
    for i, name in ipairs(names) do ids[i] = builds.submit(server, { configurationName = name }) end
    return ids
  end)
  for _, id in ipairs(ids) do builds.await(server, id, "success") end
  return server:sql(([[select string_agg(configuration_name, ' ' order by started_at) from build_queue
    where id in ('%s')]]):format(table.concat(ids, "','")))
end

setup(function()
  server = Server.start {
    config = { BuildQueue = { MaxConcurrentBuilds = 1, PollIntervalSeconds = 1 } },
    scripts = builds.scripts(),
  }
end)

teardown(function()
  if server then server:stop() end
end)

describe("a choose policy", function()
  it("says which build goes first", function()
    policy [[
      table.sort(candidates, function(a, b) return a.configurationName > b.configurationName end)
      local ids = {}
      for i, build in ipairs(candidates) do ids[i] = build.id end
      return ids
    ]]
    assert.equal("d c b a", order_of("b", "d", "a", "c"))
    policy(nil)
    assert.equal("b d a c", order_of("b", "d", "a", "c"))
    assert.equal(0, failures())
  end)

  it("may let builds wait, and is asked again when one has ended", function()
    server:stop()
    server.config.BuildQueue.MaxConcurrentBuilds = 3
    server:write_config()
    server:launch()
    policy([[
      local busy, ids = {}, {}
      for _, build in ipairs(facts.running) do busy[build.customerId] = true end
      for _, build in ipairs(candidates) do
        if not busy[build.customerId] then
          busy[build.customerId] = true
          ids[#ids + 1] = build.id
        end
      end
      return ids
    ]], "'running'")
    local first = builds.submit(server, { pipeline = "gate", customerId = "one" })
    builds.await(server, first, "building")
    local second = builds.submit(server, { pipeline = "gate", customerId = "one" })
    local other = builds.submit(server, { customerId = "two" })
    builds.await(server, other, "success") -- came later, and there was a slot for each of them
    assert.equal("pending", server:get("/builds/" .. second).json.status)
    builds.open_gate(server, first)
    builds.open_gate(server, second)
    builds.await(server, second, "success")
    assert.equal("t", server:sql(([[select (select started_at from build_queue where id = '%s') >=
      (select completed_at from build_queue where id = '%s')]]):format(second, first)))
    assert.equal(0, failures())
  end)

  it("that fails, overruns or names strangers leaves the order to the keys, and is counted", function()
    for _, body in ipairs { "return candidates.none.x", "while true do end", "return { 'stranger' }" } do
      policy(body)
      local before = failures()
      server:wait_for(function() -- after a failure it is not asked for a second
        builds.run(server)
        return failures() > before
      end, 10, "a counted failure of " .. body)
    end
    assert.truthy(server:log():find("scripts/policies/mine.lua:2: ", 1, true))
  end)
end)
