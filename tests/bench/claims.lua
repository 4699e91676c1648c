-- Claims a second out of 100,000 pending builds, by the server's own statement, for each policy: they differ in the
-- keys that the policy's hook gives, and in nothing else.
local process = require "spec.support.process"
local postgres = require "spec.support.postgres"
local Server = require "spec.support.server"
local support = require "tests.bench.support"

local PENDING <const>, BATCHES <const>, BATCH <const>, ROUNDS <const> = 100000, 40, 20, 21

local POLICIES <const> = { "strict", "aging", "fair" }
local CUSTOMERS <const>, BEGIN_US <const>, DAY_US <const> = 100, 1767225600000000, 86400000000

-- The text of a named statement.
local function statement(name)
  local text = process.read "sql/queries/attempts.sql"
  local from = select(2, text:find("-- name: " .. name .. "\n", 1, true))
  assert(from, "no statement " .. name)
  local body = text:sub(from + 1, (text:find("\n-- name:", from, true) or 0) - 1)
  return (body:gsub("%-%-[^\n]*", ""):gsub(";%s*$", ""))
end

-- What a policy's own hook says of each of the builds, as they come: a file for COPY.
local function write_builds(path, policy)
  local hook = dofile(("scripts/policies/%s.lua"):format(policy)).priority
  local tags = { queue = { 0, 0, 0, 0 }, customers = {} }
  local lines = {}
  math.randomseed(7) -- the same builds for each policy
  for i = 1, PENDING do
    local customer, priority = "c" .. math.random(CUSTOMERS), math.random(0, 3)
    local at = BEGIN_US + DAY_US * i // PENDING + math.random(0, 100)
    tags.customers[customer] = tags.customers[customer] or { 0, 0, 0, 0 }
    local answer = hook({ customerId = customer, priority = priority, enqueuedAt = at },
      { tags = { queue = tags.queue, customer = tags.customers[customer] } })
    if answer.tag then tags.customers[customer][priority + 1] = answer.tag end
    lines[i] = ("%s,%d,%d,%d"):format(customer, priority, at, answer.key or 0)
  end
  process.write(path, table.concat(lines, "\n") .. "\n")
end

-- A key of 0 is the trigger's to set: the strict one.
local FILL <const> = [[
create table bench_builds (customer text, priority integer, at bigint, key bigint);
copy bench_builds from '%s' (format csv);
insert into build_queue (customer_id, customer_name, customer_email, manifest_path, configuration_name, tier,
  architecture, cloud_provider, priority, enqueued_at, claim_key)
select customer, 'Customer', 'c@example.org', 'm.json', 'main', 'pro', 'linux-x64', 'aws', priority,
  to_timestamp(at / 1000000.0), key
from bench_builds;
drop table bench_builds;
vacuum (full, analyze) build_queue;
]]

local function prepare_claims()
  local text = statement("claim"):gsub("%$1", "the_node"):gsub("%$2", "how_many"):gsub("%$3", "low"):gsub("%$4", "'g'")
    :gsub("%$5", "'{}'")
  return ([[
    insert into nodes (id, name, url, version, slots, lease_seconds) values
      ('00000000-0000-7000-8000-000000000001', 'bench', 'http://localhost', '1', 1000, 3600);
    create procedure bench_claims(batches integer, how_many integer) language plpgsql as $body$
    declare
      the_node uuid := '00000000-0000-7000-8000-000000000001';
      low bigint := -9223372036854775808;
      answer jsonb;
    begin
      for i in 1 .. batches loop
        for answer in %s loop
          low := greatest(low, (answer->>'claimKey')::bigint);
        end loop;
        commit;
      end loop;
    end $body$;
  ]]):format(text)
end

-- The first call warms the session up.
local function claims_per_second(database)
  local output = postgres.sql(database, ("\\timing on\ncall bench_claims(2, %d);\ncall bench_claims(%d, %d);")
    :format(BATCH, BATCHES, BATCH))
  local ms
  for time in output:gmatch "Time: ([%d.]+) ms" do ms = tonumber(time) end
  return BATCHES * BATCH / assert(ms, output) * 1000
end

return function(report)
  local server = Server.new()
  local migrated = server:command { "migrate" }
  assert(migrated.code == 0, migrated.errors)
  local databases, rates, ratios, builds = {}, {}, {}, process.directory() .. "/builds.csv"
  for _, policy in ipairs(POLICIES) do
    local name = ("%s_%s"):format(server.database, policy)
    databases[policy], rates[policy], ratios[policy] = name, {}, {}
    write_builds(builds, policy)
    postgres.sql("postgres", ("create database %s template %s"):format(name, server.database))
    postgres.sql(name, FILL:format(builds))
    postgres.sql(name, prepare_claims())
  end
  -- In turns, and each policy first as often as the others: what else the machine does hits them alike.
  for round = 1, ROUNDS do
    for i = 1, #POLICIES do
      local policy = POLICIES[(round + i) % #POLICIES + 1]
      rates[policy][round] = claims_per_second(databases[policy])
    end
    for _, policy in ipairs(POLICIES) do ratios[policy][round] = rates[policy][round] / rates.strict[round] end
  end
  for i = 2, #POLICIES do
    local name = POLICIES[i]
    report { group = "claims, 100,000 pending", name = name, value = support.median(rates[name]), unit = "/s",
      beside = "strict", limit = support.median(rates.strict), ratio = support.median(ratios[name]), aim = 0.9,
      better = "higher" }
  end
end
