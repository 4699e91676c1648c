-- Scripts that mean harm, or were written on a bad day: their build ends with a message that says why, or their request
-- is answered 500, while other builds and the API go on and the server lives. And nothing of one build is there in the
-- next.
--
-- How far others are slowed down is measured by `make bench`; here it only must not be seconds.
if (os.getenv "BUILDQ_BUILD" or ""):find "tsan" then
  -- It keeps 64 Ki frames of a stack and ends a program that has more: a recursion does before any bound of ours.
  describe("isolation", function() pending "is not tested under ThreadSanitizer" end)
  return
end

local uv = require "luv"
local socket = require "socket"
local Server = require "spec.support.server"
local builds = require "spec.support.builds"

local SANITIZED <const> = (os.getenv "BUILDQ_BUILD" or "build") ~= "build" -- too slow to be timed
local CPU_SECONDS <const> = 1
local server

-- A pipeline that runs these lines.
local function pipeline(lines) return ("return { run = function(build)\n%s\nend }\n"):format(lines) end

-- A table that lies: about its length, its elements, its text, its order.
local LIAR <const> = [[
  local liar = setmetatable({}, { __len = function() return 1 << 40 end, __index = function(_, k) return k end,
    __newindex = function() end, __tostring = function() return ("x"):rep(1 << 20) end,
    __lt = function() return true end, __concat = function() return "" end, __name = ("n"):rep(1 << 16) })
]]

-- Name; lines; words of which one is in the message. `route`: what a handler of the same lines logs (absent: some
-- reason), false: it is about builds.
local HOSTILE <const> = {
  { "loops for ever", "while true do end", "more than 1 s of Lua time", route = "computed for more than 50 ms" },
  { "loops without a loop", "local function f() return f() end f()", "Lua time", route = "computed for more than" },
  { "jumps for ever", "::again:: goto again", "Lua time", route = "computed for more than" },
  { "allocates without end", "local t = {} while true do t[#t + 1] = ('x'):rep(1024) .. #t end",
    "more than 16 MB of Lua memory", route = "memory" },
  { "makes one string larger and larger", "local s = 'x' while true do s = s .. s end", "memory", route = "memory" },
  { "asks for one huge string", "return ('x'):rep(1 << 36)", "memory|too large", route = "memory" },
  { "makes a table of a very large size", "local t = {} for i = 1, 1e9 do t[i] = i end", "memory|Lua time" },
  { "makes closures without end",
    "local f for i = 1, 1e9 do local g = f f = function() return g, i end end", "memory" },
  { "makes coroutines without end", "local t = {} while true do t[#t + 1] = coroutine.create(print) end", "memory" },
  { "grows its stack", "local function f(...) return f(1, ...) end f()", "stack overflow|memory|Lua time" },
  { "never ends its recursion", "local function f() return 1 + f() end f()", "stack overflow|memory" },
  { "recurses through pcall",
    "local function f() return pcall(f) end while true do f() end", "Lua time|stack overflow" },
  { "recurses through metamethods",
    "local t = setmetatable({}, {}) getmetatable(t).__index = function(_, k) return t[k .. 'x'] end return t.x",
    "stack overflow|memory|C stack|Lua time" },
  { "recurses through coroutines",
    "local function f() return coroutine.wrap(f)() end f()", "C stack overflow|stack overflow|memory|Lua time" },
  { "nests a chunk very deep", "assert(load(('('):rep(1e5)))", "overflow|too many|nest|limit" },
  { "loads chunk after chunk", "while true do load(('local x = 1 '):rep(1000)) end", "Lua time" },
  { "loads from a reader without end", "assert(load(function() return ' ' end))", "1 MiB|Lua time" },
  { "catches every error in a loop", "while true do pcall(function() while true do end end) end", "Lua time" },
  { "catches its own errors for ever", "while true do pcall(error) end", "Lua time" },
  { "catches the lack of memory in a loop",
    "while true do pcall(function() local t = {} while true do t[#t + 1] = {} end end) end", "memory" },
  { "loops in a coroutine", "local c = coroutine.wrap(function() while true do end end) while true do pcall(c) end",
    "Lua time" },
  { "loops in coroutines in coroutines", [[
    local function deeper(n)
      return coroutine.wrap(function() if n == 0 then while true do end end deeper(n - 1)() end)
    end
    while true do pcall(deeper(20)) end]], "Lua time" },
  { "yields for ever",
    "local c = coroutine.wrap(function() while true do coroutine.yield() end end) while true do c() end",
    "Lua time" },
  { "makes short coroutines for ever", "while true do coroutine.wrap(function() end)() end", "Lua time" },
  { "loops in an error handler", "xpcall(error, function() while true do end end)", "ran for more than|Lua time" },
  { "raises in error handlers for ever",
    "local function h() return xpcall(error, function() error 'again' end) end while true do h() end", "Lua time" },
  { "loops in a gsub callback", "('x'):gsub('x', function() while true do end end)", "ran for more than|Lua time" },
  { "catches errors in a gsub callback",
    "('x'):rep(1000):gsub('x', function() while true do pcall(error) end end)", "ran for more than|Lua time" },
  { "loops in a gmatch", "while true do for _ in ('x'):rep(1000):gmatch '.' do end end", "Lua time" },
  { "loops in a sort", "table.sort({ 1, 2, 3 }, function() while true do end end)", "ran for more than|Lua time" },
  { "sorts again and again",
    "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.sort(t) end", "Lua time" },
  { "sorts with an order that is none",
    "local t = {} for i = 1, 1e5 do t[i] = i end while true do pcall(table.sort, t, function() return true end) end",
    "ran for more than|Lua time" },
  { "runs a pattern that never ends", "(('a'):rep(40)):find((('a?'):rep(40)) .. ('a'):rep(40))",
    "ran for more than|Lua time|pattern" },
  { "backtracks through a long text", "(('a'):rep(1 << 16)):find('.-.-.-.-b')", "ran for more than|Lua time" },
  { "matches brackets that are never closed",
    "(('('):rep(1 << 20)):find('%b()%b()%b()x')", "ran for more than|Lua time" },
  { "catches a pattern that never ends",
    "while true do pcall(string.find, ('a'):rep(40), ('a?'):rep(40) .. ('a'):rep(40)) end",
    "ran for more than|Lua time|pattern" },
  { "searches plain text in megabytes",
    "local s = ('a'):rep(1 << 21) while true do s:find(('a'):rep(1 << 20) .. 'b', 1, true) end", "Lua time|ran for" },
  { "repeats nothing very often", "(''):rep(1e15) while true do end", "Lua time" },
  { "formats very much", "while true do local _ = ('%s'):rep(50):format(table.unpack((function() local t = {} "
    .. "for i = 1, 50 do t[i] = ('x'):rep(1e4) end return t end)())) end", "Lua time" },
  { "turns megabytes round",
    "local s = ('x'):rep(1 << 21) while true do s = s:reverse():upper():lower() end", "Lua time" },
  { "packs for ever", "while true do string.pack(('!16 i8'):rep(1000), table.unpack({}, 1, 0)) end",
    "bad argument|Lua time" },
  { "moves a table that lies about its length", LIAR .. "table.move(liar, 1, 1 << 40, 2, {})",
    "more than 10 million" },
  { "moves as much as it may of a table that lies", LIAR .. "table.move(liar, 1, 9999999, 2, {})",
    "ran for more than|Lua time|memory" },
  { "joins a table that lies", LIAR .. "table.concat(liar)", "more than 10 million" },
  { "takes a table apart that lies", LIAR .. "table.unpack(liar)", "too many results" },
  { "sorts a table that lies", LIAR .. "table.sort(liar)", "__len|million" },
  { "inserts into a table that lies", LIAR .. "table.insert(liar, 1, 1)", "more than 10 million|million" },
  { "selects with a huge number", "select(1 << 62, 1) select(-(1 << 62), 1)", "out of range" },
  { "makes text of a table that lies, for ever", LIAR .. "while true do tostring(liar) end", "Lua time|memory" },
  { "loops in a metamethod", "local t = setmetatable({}, { __index = function() while true do end end }) return t.x",
    "Lua time" },
  { "loops in an iterator", "for _ in function() return 1 end do end", "Lua time" },
  { "loops in __pairs", "pairs(setmetatable({}, { __pairs = function() while true do end end }))", "Lua time|ran for" },
  { "loops in closing a variable",
    "local x <close> = setmetatable({}, { __close = function() while true do end end }) error 'out'", "Lua time|out" },
  { "closes in a loop of closing", [[
    local m = {}
    m.__close = function() local y <close> = setmetatable({}, m) end
    local x <close> = setmetatable({}, m)]], "overflow|Lua time|memory|ran for" },
  { "loops in closing a coroutine",
    [[local m = { __close = function() while true do end end }
    local c = coroutine.create(function() local x <close> = setmetatable({}, m) coroutine.yield() end)
    coroutine.resume(c)
    coroutine.close(c)]], "ran for more than|Lua time" },
  { "says very much", "error(('ü'):rep(5000))", "üüü" },
  { "raises a table that lies", "error(setmetatable({}, { __tostring = function() while true do end end }))",
    "an error value that is a table" },
  { "raises nothing", "error()", "an error value that is a nil" },
  { "counts in a loop of catching",
    "local n = 0 while true do pcall(function() n = n + #tostring(n) end) end", "Lua time" },
  { "ends the process", "os.exit(0)", "'exit'" },
  { "starts a shell", "os.execute 'true'", "'execute'" },
  { "opens a pipe", "io.popen 'true'", "'io'" },
  { "asks the debug library", "debug.sethook()", "'debug'" },
  { "loads a library", "package.loadlib('libc.so.6', 'exit')", "'package'" },
  { "loads bytecode", "assert(load('\\27Lua'))", "binary chunk" },
  { "asks for bytecode", "string.dump(print)", "'dump'" },
  { "wants code at the garbage's end", "setmetatable({}, { __gc = function() while true do end end })",
    "__gc is not available" },
  { "redefines string.format", "string.format = function() return 'mine' end", "string is read-only" },
  { "redefines it behind the lock", "rawset(string, 'format', print)", "read-only" },
  { "redefines it through the strings' metatable",
    "getmetatable('').__index = {}", "locked|index a string value|__index" },
  { "changes the API", "require('buildq').fs.read = print", "read-only" },
  { "replaces the library's metatable", "setmetatable(string, nil)", "protected metatable" },
  { "reads a file of the system",
    "require('buildq').fs.read '/etc/passwd'", "/etc/passwd\" is not in the workspace", route = false },
  { "reads above its workspace", "require('buildq').fs.read '../../../server.log'", "..", route = false },
  { "follows a link out of its workspace",
    "build:exec { argv = { 'ln', '-s', '/etc', 'etc' } } require('buildq').fs.read 'etc/passwd'", "etc/passwd",
    route = false },
  { "writes through a link out of its workspace",
    "build:exec { argv = { 'ln', '-s', '/tmp', 'out' } } require('buildq').fs.write('out/bq-isolation', 'x')",
    "out/bq-isolation",
    route = false },
  { "publishes a file that is not its own", "build:artifact '../../../server.log'", "..", route = false },
  { "lets a command read the server's files",
    "build:exec { argv = { 'cat', build.workspace .. '/../../../server.log' } }", "exit code 1", route = false },
  { "defers a loop", "build:defer(function() while true do end end) error 'mine'", "mine", route = false },
  { "asks for side by side what never ends",
    "local t = {} for i = 1, 100 do t[i] = function() while true do end end end build:all(t)", "Lua time",
    route = false },
}

-- What the other tests use.
local SCRIPTS <const> = {
  ["pipelines/other.lua"] = pipeline "build:log 'another build'",
  ["pipelines/timers.lua"] = pipeline [[
    local sleep, outer = require("buildq").sleep, {}
    for i = 1, 10 do
      outer[i] = function()
        local inner = {}
        for j = 1, 1000 do inner[j] = function() sleep(3600) end end
        build:all(inner, { limit = 1000 })
      end
    end
    build:log "begun"
    build:all(outer, { limit = 10 })
  ]],
  ["routes/timers.lua"] = [[return { method = "GET", path = "/timers", handle = function(request)
    local buildq = require "buildq"
    for i = 1, 100 do buildq.sleep(0.001) end
    return { body = "slept" }
  end }]],
  ["lib/shared.lua"] = [[
    local count = 0
    return { text = "first", count = function() count = count + 1 return count end }
  ]],
  ["pipelines/leaver.lua"] = pipeline [[
    leaked, _G.leaked_too = 1, 2
    string, print, require("shared").text = { format = "mine" }, nil, "changed"
    _ENV.pairs = nil
    require("shared").count()
    local buildq = require "buildq"
    for _, value in ipairs { "", string, table, math, buildq, buildq.fs, _G } do
      pcall(function() getmetatable(value).__index = { leaked = true } end)
      pcall(setmetatable, value, { __index = { leaked = true } })
      pcall(rawset, value, "leaked", true)
      pcall(function() value.leaked = true end)
    end
    math.randomseed(42)
    build:log("seeded " .. math.random(1 << 40))
    coroutine.wrap(function() kept = coroutine.running() coroutine.yield() end)()
  ]],
  ["pipelines/finder.lua"] = pipeline [[
    local buildq = require "buildq"
    local found = {}
    for name in pairs { leaked = 1, leaked_too = 1, kept = 1 } do
      if _ENV[name] ~= nil then found[#found + 1] = name end
    end
    for name, value in pairs { text = "", string = string, table = table, math = math, buildq = buildq,
      fs = buildq.fs, _G = _G } do
      if value.leaked ~= nil then found[#found + 1] = name end
    end
    if type(print) ~= "function" or type(pairs) ~= "function" then found[#found + 1] = "a function" end
    if ("%d"):format(7) ~= "7" or string.format("%d", 7) ~= "7" then found[#found + 1] = "format" end
    if require("shared").text ~= "first" or require("shared").count() ~= 1 then found[#found + 1] = "upvalue" end
    build:log("found <" .. table.concat(found, " ") .. "> random " .. math.random(1 << 40))
  ]],
  ["routes/sees.lua"] = [[return { method = "GET", path = "/sees", handle = function()
    return { json = { leaked = leaked == nil, format = ("%d"):format(7), text = require("shared").text } }
  end }]],
}

setup(function()
  local files = {}
  for path, text in pairs(SCRIPTS) do files[path] = text end
  local routes, cases = {}, {}
  for i, row in ipairs(HOSTILE) do
    files[("pipelines/hostile-%d.lua"):format(i)] = pipeline(row[2])
    if row.route ~= false then
      routes[#routes + 1] = ("{ method = 'GET', path = '/hostile/%d', handle = function()\n%s\nend },")
        :format(i, row[2])
      cases[#cases + 1] = ("['%d'] = function()\n%s\nend,"):format(i, row[2])
    end
  end
  -- A policy that does to the decision about build number n what row n says.
  files["policies/active.lua"] = "return { retry = 'hostile' }"
  files["policies/hostile.lua"] = ("local cases = {\n%s\n}\nreturn { retry = function(failure)\n"
    .. "local case = failure.message:match 'case (%%d+)'\nif case then return cases[case]() end\n"
    .. "return { retry = false }\nend }\n"):format(table.concat(cases, "\n"))
  files["pipelines/case.lua"] = pipeline "error(('case %d'):format(build.metadata.case), 0)"
  files["routes/hostile.lua"] = "return {\n" .. table.concat(routes, "\n") .. "}\n"
  server = Server.start {
    config = { BuildQueue = { MaxConcurrentBuilds = 4, MaxRetryAttempts = 0, LuaCpuSeconds = CPU_SECONDS,
      LuaMemoryMegabytes = 16, GracefulShutdownTimeoutSeconds = 1 } },
    scripts = files,
  }
end)

teardown(function()
  if server then server:stop() end
end)

local function says(text, words)
  for part in (words .. "|"):gmatch "(.-)|" do
    if text:find(part, 1, true) then return true end
  end
  return false
end

describe("a pipeline that", function()
  for i, row in ipairs(HOSTILE) do
    it(row[1] .. " fails with a clear message while the API and another build go on", function()
      local id = builds.submit(server, { pipeline = "hostile-" .. i })
      builds.await(server, builds.submit(server, { pipeline = "other" }), "success", 10)
      local slowest = 0
      server:wait_for(function()
        local began = socket.gettime()
        assert.equal(200, server:get("/healthz").status)
        slowest = math.max(slowest, socket.gettime() - began)
        local status = server:get("/builds/" .. id).json.status
        return status ~= "building" and status ~= "pending"
      end, 20, "its end")
      local build = server:get("/builds/" .. id).json
      assert.equal("failed", build.status)
      assert.truthy(utf8.len(build.errorMessage))
      assert.truthy(says(build.errorMessage, row[3]), build.errorMessage)
      assert.truthy(#build.errorMessage > 5, build.errorMessage)
      assert.truthy(SANITIZED or slowest < 2, ("/healthz took %.2f s"):format(slowest))
    end)
  end

  it("holds 10,000 timers harms nobody, and a cancel ends it at once", function()
    local id = builds.submit(server, { pipeline = "timers" })
    server:wait_for(function() return builds.log(server, id):find "begun" end, 10)
    for _ = 1, 3 do builds.run(server, { pipeline = "other" }) end
    assert.equal("building", server:get("/builds/" .. id).json.status)
    local began = uv.hrtime()
    assert.equal(202, server:post(("/builds/%s/cancel"):format(id)).status)
    builds.await(server, id, "cancelled", 10)
    assert.truthy((uv.hrtime() - began) / 1e9 < 5)
    assert.equal(200, server:get("/healthz").status)
  end)
end)

describe("a route that", function()
  for i, row in ipairs(HOSTILE) do
    if row.route ~= false then
      it(row[1] .. " is answered 500, and the next request is fine", function()
        local from = #server:log()
        local began = socket.gettime()
        local answer = server:get("/hostile/" .. i)
        local took = socket.gettime() - began
        assert.equal(500, answer.status, answer.body)
        assert.equal("application/problem+json", answer.headers["content-type"])
        local logged = server:log():sub(from + 1)
        assert.truthy(logged:find(answer.headers["x-request-id"], 1, true), logged)
        assert.truthy(says(logged, row.route or "error="), logged)
        assert.equal(200, server:get("/builds?limit=1").status)
        assert.truthy(SANITIZED or took < 2, ("it took %.2f s"):format(took))
      end)
    end
  end

  it("holds 10,000 timers harms no other request", function()
    local open = {}
    for i = 1, 100 do
      open[i] = server:connect()
      open[i]:send(("GET /timers HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"):format(server.address))
    end
    assert.equal(200, server:get("/builds?limit=1").status)
    for _, connection in ipairs(open) do
      assert.truthy((connection:receive "*a"):find "slept")
      connection:close()
    end
  end)
end)

describe("a policy that", function()
  local function failures()
    return tonumber(server:get("/metrics").body:match "\nbuildq_policy_failures_total{hook=\"retry\"} (%d+)" or 0)
  end

  for i, row in ipairs(HOSTILE) do
    if row.route ~= false then
      it(row[1] .. " is counted, the built-in rule decides, and requests are answered meanwhile", function()
        local before = failures()
        local id = builds.submit(server, { pipeline = "case", metadata = { case = i } })
        local slowest = 0
        server:wait_for(function()
          local began = socket.gettime()
          assert.equal(200, server:get("/healthz").status)
          slowest = math.max(slowest, socket.gettime() - began)
          return server:get("/builds/" .. id).json.status == "failed"
        end, 10, "its end")
        assert.equal(before + 1, failures())
        assert.truthy(SANITIZED or slowest < 1, ("/healthz took %.2f s"):format(slowest))
      end)
    end
  end

  it("decides as it should is asked again afterwards", function()
    local before = failures()
    builds.run(server, { pipeline = "hostile-1" }, "failed")
    assert.equal(before, failures())
  end)
end)

-- Rules and templates are tried before they go live: these never do. What passes is rendered under the same bounds.
describe("a notification or template that", function()
  local RULE <const>, TEMPLATE <const> = "notifications/mine.lua", "email/failed.txt"
  local IN_RULE <const>, IN_TEMPLATE <const> = "scripts/notifications/mine.lua:2: ", "templates/email/failed.txt"
  local CASES <const> = {
    { "loops for ever", RULE, "while true do end", IN_RULE .. "the check ran for more" },
    { "catches every error", RULE, "while true do pcall(function() while true do end end) end",
      IN_RULE .. "the check " },
    { "allocates without end", RULE, "local t = {} while true do t[#t + 1] = {} end",
      IN_RULE .. "the check used more than 16 MB of Lua memory" },
    { "matches a pathological pattern", RULE, "(('a'):rep(40)):find(('a?'):rep(40) .. ('a'):rep(40))",
      IN_RULE .. "the check " },
    { "tells of recipients without end", RULE, [[
      return setmetatable({}, { __len = function() return 1 << 40 end,
        __index = function() return { channel = 'email', recipient = 'x@example.org' } end })]], ": the check " },
    { "ends the process", RULE, "os.exit(0)", IN_RULE },
    { "includes itself", TEMPLATE, '{% include "email/failed.txt" %}', IN_TEMPLATE },
    { "asks for a billion blanks", TEMPLATE, '{{ "x" | indent: 1000000000 }}', IN_TEMPLATE },
    { "nests without end", TEMPLATE, ("{% if true %}"):rep(1 << 16), IN_TEMPLATE },
    { "has brackets without end", TEMPLATE, "{{ " .. ("("):rep(1 << 16) .. " }}", "scripts/lib/template" },
  }

  -- The last one's file is gone, and noticed to be.
  before_each(function()
    os.remove(server.directory .. "/scripts/" .. RULE)
    os.remove(server.directory .. "/templates/" .. TEMPLATE)
    server:wait_for(function() return server:post("/admin/reload").status == 200 end, 20, "scripts without fault")
  end)

  for _, case in ipairs(CASES) do
    it(case[1] .. " is refused with its place, and requests are answered meanwhile", function()
      local of_rule = case[2] == RULE
      local kind, before = of_rule and "scripts" or "templates", server:get("/readyz").json.generation
      server:write(kind, { [case[2]] = of_rule
        and ("return { events = { 'failed' }, deliver = function()\n%s\nend }"):format(case[3]) or case[3] })
      local reload = server:connect(30)
      reload:send(("POST /admin/reload HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
        .. "Content-Length: 2\r\nConnection: close\r\n\r\n{}"):format(server.address))
      local slowest = 0
      repeat
        local began = socket.gettime()
        assert.equal(200, server:get("/builds?limit=1").status)
        slowest = math.max(slowest, socket.gettime() - began)
      until socket.select({ reload }, nil, 0.02)[1]
      local answer = reload:receive "*a"
      reload:close()
      assert.truthy(answer:find("^HTTP/1.1 422") and answer:find(case[4], 1, true), answer)
      assert.truthy(SANITIZED or slowest < 1, ("a request took %.2f s"):format(slowest))
      assert.equal(before, server:get("/readyz").json.generation)
    end)
  end

  teardown(function()
    os.remove(server.directory .. "/scripts/" .. RULE)
    os.remove(server.directory .. "/templates/" .. TEMPLATE)
    server:wait_for(function() return server:post("/admin/reload").status == 200 end, 20, "scripts without fault")
  end)
end)

describe("what a build leaves behind", function()
  it("is not there in the next one: globals, metatables, upvalues of libraries, random state", function()
    local seeded = builds.log(server, builds.run(server, { pipeline = "leaver" }).id):match "seeded (%d+)"
    assert.truthy(seeded)
    local seen = { [seeded] = true }
    for _ = 1, 4 do
      builds.run(server, { pipeline = "leaver" })
      local log = builds.log(server, builds.run(server, { pipeline = "finder" }).id)
      local found, random = log:match "found <(.-)> random (%d+)"
      assert.equal("", found)
      assert.is_nil(seen[random])
      seen[random] = true
    end
  end)

  it("is not there in a route either", function()
    builds.run(server, { pipeline = "leaver" })
    assert.same({ leaked = true, format = "7", text = "first" }, server:get("/sees").json)
  end)
end)
