-- The mistakes that authors of scripts make most often, and what they are told: their own file and line first, the
-- step, what was given, what was expected.
local test = require "buildq.test"

-- body of a pipeline's step on line 4 → the whole message, as a Lua pattern
local IN_A_STEP <const> = {
  { "a text for exec", 'build:exec "make all"',
    'build:exec: given a string, expected a table of options, as in build:exec {argv = {"make", "all"}}' },
  { "exec without argv", 'build:exec { cwd = "." }',
    'build:exec: argv is missing: expected a list of strings, as in {argv = {"make", "all"}}' },
  { "a list for exec", 'build:exec { "make", "all" }',
    'build:exec: given a list, expected a table of options, as in build:exec {argv = {"make", "all"}}' },
  { "a text for argv", 'build:exec { argv = "make all" }',
    'build:exec: argv: given a string, expected a list, as in {"make", "all"}; a line for the shell is shell =' },
  { "a misspelt option", 'build:exec { argv = { "make" }, timout = 5 }',
    "build:exec: there is no option timout; did you mean timeout? "
    .. "There are: argv, shell, cwd, env, timeout, stdin, capture, check" },
  { "an artifact's path that is nil", "build:artifact(build.archive)",
    "build:artifact: the path: given nil, expected a string" },
  { "a dot for a colon", 'build.exec { argv = { "make" } }',
    "build.exec was called with a dot; expected a colon: build:exec(…)" },
  { "a dot for a colon, with a text", 'build.log("hello")',
    "build.log was called with a dot; expected a colon: build:log(…)" },
  { "an unknown module", 'require "tolchain"',
    "there is no module tolchain: neither buildq nor scripts/lib/tolchain.lua; did you mean toolchain?" },
  { "a field of nil", "build:log(build.manifest.source.repository)",
    "attempt to index a nil value (field 'source')" },
  { "a message that is a table", "build:fail({ 'no' })", "build:fail: the message: given a table, expected a string" },
  { "a misspelt option of fail", 'build:fail("no", { retries = false })',
    "build:fail: there is no option retries; did you mean retry? There are: retry" },
  { "a url that is missing", 'require("buildq").http.request { uri = "https://example.org" }',
    "http.request: there is no option uri; did you mean url? "
    .. "There are: url, method, headers, body, timeout, max_bytes" },
  { "a function as JSON", "require('buildq').json.encode({ run = print })", "run" },
  { "a step inside a step", 'build:step("Inner", function() end)',
    "build:step: Inner begins inside another step: steps don't nest" },
  { "a path that is nil", "require('buildq').fs.read(nil)",
    "bad argument #1 to 'read' (string expected, got nil)" },
}

local function pipeline(body)
  return "return { run = function(build)\n"
    .. '  build:step("Compiling", { at = 10 }, function()\n'
    .. "    -- a comment\n    " .. body .. "\n  end)\nend }\n"
end

describe("a mistake in a step", function()
  for _, row in ipairs(IN_A_STEP) do
    local name, body, message = table.unpack(row)
    it("is told: " .. name, function()
      test.write("pipelines/mistake.lua", pipeline(body))
      local result = test.run "mistake"
      assert.equal("failed", result.status)
      local place = "scripts/pipelines/mistake.lua:4: step Compiling: "
      assert.equal(place, result.message:sub(1, #place))
      assert.truthy(result.message:find(message, #place + 1, true), result.message)
      -- The log has the same line, and the way there.
      assert.truthy(result.log:find(result.message, 1, true), result.log)
      assert.truthy(result.log:find("stack traceback", 1, true))
    end)
  end
end)

describe("a mistake", function()
  it("in a step's own arguments is told with the step's line", function()
    local example = 'build:step("Compiling", {at = 50}, function() … end)'
    for body, message in pairs {
      ['build:step("Compiling")'] = "build:step: Compiling: given nil, expected a function, as in " .. example,
      ['build:step("Compiling", { at = 5 }, 7)'] =
        "build:step: Compiling: given the number 7, expected a function, as in " .. example,
      ['build:step("Compiling", { form = 5 }, print)'] =
        "build:step: there is no option form; there are: at, weight",
      ["build:step(nil, print)"] = "build:step: the name: given nil, expected a string",
      ['build.step("Compiling", print)'] = "build.step was called with a dot; expected a colon: build:step(…)",
    } do
      test.write("pipelines/mistake.lua", "return { run = function(build)\n  " .. body .. "\nend }\n")
      assert.equal("scripts/pipelines/mistake.lua:2: " .. message, test.run("mistake").message)
    end
  end)

  it("in a team's own library is told with that library's line, in a shipped one with the caller's", function()
    test.write("lib/ours.lua", "return { make = function(build)\n  build:exec { args = {} }\nend }\n")
    test.write("pipelines/mistake.lua", "return { run = function(build)\n  require('ours').make(build)\nend }\n")
    assert.matches("^scripts/lib/ours.lua:2: build:exec: there is no option args", test.run("mistake").message)
    test.write("pipelines/mistake.lua",
      "return { run = function(build)\n  require('source').checkout(build, nil)\nend }\n")
    assert.matches("^scripts/pipelines/mistake.lua:2: ", test.run("mistake").message)
  end)

  it("in a pipeline's shape refuses the scripts", function()
    for text, message in pairs {
      ["return { rum = function() end }"] = "scripts/pipelines/mistake.lua: run must be a function, it is nil",
      ["return function() end"] = "scripts/pipelines/mistake.lua: must return a table, it returns function",
      ["return {\n  run = function(build) build:exec { argv = { 'make' } \n}"] = "scripts/pipelines/mistake.lua:3: ",
      ["local x = requir 'x'\nreturn {}"] =
        "scripts/pipelines/mistake.lua:1: attempt to call a nil value (global 'requir')",
    } do
      test.write("pipelines/mistake.lua", text)
      local ok, fault = pcall(test.reload)
      assert.is_false(ok)
      assert.truthy(tostring(fault):find(message, 1, true), tostring(fault))
    end
  end)

  it("in a route is a 500, also one that would otherwise be ignored", function()
    test.write("routes/mistake.lua", [[
      local response = require("buildq").response
      return {
        { method = "GET", path = "/nothing", handle = function() end },
        { method = "GET", path = "/misspelt", handle = function() return { statuss = 200 } end },
        { method = "GET", path = "/file", handle = function() return response.file { id = 1 } end },
      }]])
    for _, path in ipairs { "/nothing", "/misspelt", "/file" } do assert.equal(500, test.get(path).status) end
  end)
end)
