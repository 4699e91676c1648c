-- A thousand builds and a mail server that fails in one of twenty steps: each owed mail arrives. One comes twice only
-- where its reply was lost, or the server was killed before it had noted it, and then under the same Message-ID.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local smtp = require "spec.support.smtp"

local BUILDS <const> = 1000
local FAULTS <const> = { "451 4.3.0 later", "421 4.3.2 going away", "drop", "hang" }

local function plan()
  local rules = {}
  for _, stage in ipairs { "connect", "ehlo", "mail", "rcpt", "data", "body" } do
    for _, action in ipairs(FAULTS) do
      rules[#rules + 1] = { stage = stage, action = action, chance = 0.05 / #FAULTS }
    end
  end
  rules[#rules + 1] = { stage = "body", action = "keep-drop", chance = 0.05 }
  return rules
end

describe("with a mail server that fails in one of twenty steps", function()
  it("each mail of a thousand builds arrives", function()
    local sink = smtp.sink { keep = "ids" }
    sink:plan(plan())
    local server = Server.start { scripts = builds.scripts(), config = {
      BuildQueue = { PollIntervalSeconds = 1, DeliveryRetrySeconds = 1, DeliveryRetryMaxSeconds = 1,
        MaxConcurrentBuilds = 8, MaxConcurrentDeliveries = 16 },
      Email = sink:config { TimeoutSeconds = 1 },
    }, manifests = { ["m.json"] = { version = "1.0", name = "m", tier = "pro", architecture = "any",
      cloudTargets = { { provider = "aws" } }, pipeline = "quick" } } }
    server:sql(([[insert into build_queue (customer_id, customer_name, customer_email, configuration_name,
      manifest_path, tier, architecture, cloud_provider, pipeline) select 'c' || n %% 50, 'Customer',
      'c' || n || '@example.org', 'x', 'm.json', 'pro', 'any', 'aws', 'quick'
      from generate_series(1, %d) n]]):format(BUILDS))
    -- Half-way through, the server is killed.
    server:wait_for(function()
      return tonumber(server:sql "select count(*) from deliveries where state = 'sent'") > BUILDS
    end, 200)
    server:kill "sigkill"
    server.child:wait()
    server:launch()
    server:wait_for(function()
      return server:sql "select count(*) from deliveries where state = 'sent'" == tostring(3 * BUILDS)
    end, 300, function() return server:sql "select state, count(*), max(last_reply) from deliveries group by state" end)
    -- Tries that nobody answered: a timeout, a lost connection, the server's death.
    local unanswered = {}
    for _, row in ipairs(server:rows [[select d.message_id, count(*) as count from deliveries d,
        jsonb_array_elements(attempts) a
        where a ->> 'outcome' = 'lost' or (a ->> 'outcome' = 'retry' and not a ? 'code')
        group by d.message_id]]) do
      unanswered[row.message_id] = row.count
    end
    server:stop()
    local times, different = {}, 0
    for _, mail in ipairs(sink:mails()) do
      if not times[mail.id] then different = different + 1 end
      times[mail.id] = (times[mail.id] or 0) + 1
    end
    for id, count in pairs(times) do
      assert.is_true(count <= 1 + (unanswered[id] or 0), ("%s came %d times"):format(id, count))
    end
    assert.equal(3 * BUILDS, different)
    assert.is_true(#sink:mails() > 3 * BUILDS, "no reply was lost")
  end)
end)
