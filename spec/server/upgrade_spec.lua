-- A rolling upgrade: two versions of the program on one database.
local uv = require "luv"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

-- The program as it will be one migration later, installed in a directory of its own.
local function newer(migration)
  local root = process.directory()
  process.check { "make", "-s", "install", "BUILD=" .. (os.getenv "BUILDQ_BUILD" or "build"), "PREFIX=/usr",
    "DESTDIR=" .. root }
  local migrations = root .. "/usr/share/buildq/sql/migrations"
  local last = 0
  for name in uv.fs_scandir_next, assert(uv.fs_scandir(migrations)) do
    last = math.max(last, tonumber(name:match "^%d+") or 0)
  end
  process.write(("%s/%04d_later.sql"):format(migrations, last + 1), migration:gsub("NEXT", tostring(last + 1)))
  return root .. "/usr/bin/buildq"
end

local CONFIG <const> = { BuildQueue = { MaxConcurrentBuilds = 1, LeaseSeconds = 600, PollIntervalSeconds = 1 } }

describe("a rolling upgrade", function()
  it("lets the older server go on while the newer one migrates, and both work", function()
    local older = Server.start { config = CONFIG, scripts = builds.scripts() }
    local running = builds.submit(older, { pipeline = "gate" })
    builds.await(older, running, "building")
    local program = newer
      "-- oldest program: 1\nalter table build_queue add column later text not null default 'x';\n"
    local younger = Server.start { config = CONFIG, scripts = builds.scripts(), database = older.database,
      program = program }
    assert.equal("x", younger:sql(("select later from build_queue where id = '%s'"):format(running)))
    -- The newer one takes what the older has no slot for; each answers for the other's builds.
    local second = builds.submit(older, { pipeline = "gate" })
    builds.await(younger, second, "building")
    assert.equal("building", older:get("/builds/" .. running).json.status)
    builds.open_gate(older, running)
    builds.await(younger, running, "success")
    -- With the newer one at work, the older takes and finishes new ones.
    local third = builds.submit(younger, { pipeline = "gate" })
    builds.await(younger, third, "building")
    builds.open_gate(older, third)
    builds.await(older, third, "success")
    builds.open_gate(younger, second)
    builds.await(older, second, "success")
    assert.equal("1 1 1", older:sql "select string_agg(attempt::text, ' ') from build_queue")
    assert.equal(0, older:stop())
    older:launch() -- it may come back as it is
    assert.equal(0, older:stop())
    builds.run(younger)
    assert.equal(0, younger:stop())
  end)

  it("refuses the start of a server that is too old for what the database has become, and says so", function()
    local older = Server.start { config = CONFIG, scripts = builds.scripts() }
    assert.equal(0, older:stop())
    local younger = Server.start { config = CONFIG, scripts = builds.scripts(), database = older.database,
      program = newer "-- oldest program: NEXT\nalter table build_queue add column later text;\n" }
    local refused = older:command { "serve" }
    assert.equal(1, refused.code)
    assert.truthy(refused.errors:find("_later.sql", 1, true), refused.errors)
    builds.run(younger)
    assert.equal(0, younger:stop())
  end)
end)
