-- Claims a second out of 100,000 pending builds, by the server's own statement, for each policy: they differ in the
-- keys that they give, and in nothing else.
local process = require "spec.support.process"
local postgres = require "spec.support.postgres"
local Server = require "spec.support.server"
local support = require "tests.bench.support"

local PENDING <const>, BATCHES <const>, BATCH <const>, ROUNDS <const> = 100000, 40, 20, 21

local KEYS <const> = {
  { "strict", "claim_key" }, -- the trigger's
  { "aging", "(extract(epoch from enqueued_at) * 1e6)::bigint - priority * 900000000::bigint" },
  -- The n-th build of each customer before the n + 1st of any.
  { "fair", [[(3 - priority) * 1000000000000::bigint + hashtext(customer_id) % 1000
    + row_number() over (partition by customer_id, priority order by enqueued_at) * 1000000]] },
}

-- The text of a named statement.
local function statement(name)
  local text = process.read "sql/queries/attempts.sql"
  local from = select(2, text:find("-- name: " .. name .. "\n", 1, true))
  assert(from, "no statement " .. name)
  local body = text:sub(from + 1, (text:find("\n-- name:", from, true) or 0) - 1)
  return (body:gsub("%-%-[^\n]*", ""):gsub(";%s*$", ""))
end

local FILL <const> = [[
insert into build_queue (customer_id, customer_name, customer_email, manifest_path, configuration_name, tier,
  architecture, cloud_provider, priority, enqueued_at)
select 'c' || i %% 100, 'Customer', 'c@example.org', 'm.json', 'main', 'pro', 'linux-x64', 'aws', i %% 4,
  now() - (random() * 86400) * interval '1 second'
from generate_series(1, %d) i;
]]

local function prepare_claims()
  local text = statement("claim"):gsub("%$1", "the_node"):gsub("%$2", "how_many"):gsub("%$3", "low"):gsub("%$4", "'g'")
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
  postgres.sql(server.database, FILL:format(PENDING))
  local databases, rates, ratios = {}, {}, {}
  for _, row in ipairs(KEYS) do
    local name = ("%s_%s"):format(server.database, row[1])
    databases[row[1]], rates[row[1]], ratios[row[1]] = name, {}, {}
    postgres.sql("postgres", ("create database %s template %s"):format(name, server.database))
    postgres.sql(name, ([[
      alter table build_queue disable trigger user;
      update build_queue b set claim_key = k.key from (select id, %s as key from build_queue) k where b.id = k.id;
      alter table build_queue enable trigger user;
      vacuum (full, analyze) build_queue;
    ]]):format(row[2]))
    postgres.sql(name, prepare_claims())
  end
  -- In turns, and each policy first as often as the others: what else the machine does hits them alike.
  for round = 1, ROUNDS do
    for i = 1, #KEYS do
      local policy = KEYS[(round + i) % #KEYS + 1][1]
      rates[policy][round] = claims_per_second(databases[policy])
    end
    for _, row in ipairs(KEYS) do ratios[row[1]][round] = rates[row[1]][round] / rates.strict[round] end
  end
  for i = 2, #KEYS do
    local name = KEYS[i][1]
    report { group = "claims, 100,000 pending", name = name, value = support.median(rates[name]), unit = "/s",
      beside = "strict", limit = support.median(rates.strict), ratio = support.median(ratios[name]), aim = 0.9,
      better = "higher" }
  end
end
