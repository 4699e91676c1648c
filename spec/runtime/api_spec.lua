-- scripts/lib/buildq.d.lua says exactly what the runtime registers: nothing more, nothing less, and where it is.
local test = require "buildq.test"

---@class Declared
---@field fields table<string, boolean>
---@field functions table<string, {note: string, params: table<string, string>}>
---@field note string

-- The declarations of the file: class → its fields and functions.
local function read_declarations()
  local class ---@type Declared
  local classes = {} ---@type table<string, Declared>
  local of_variable = {} ---@type table<string, Declared>
  local note, params = "", {}
  for line in io.lines "scripts/lib/buildq.d.lua" do
    local name, rest = line:match "^%-%-%-@class ([%w_.]+)(.*)"
    if name then
      class = { fields = {}, functions = {}, note = note .. rest }
      classes[name] = class
    elseif line:match "^%-%-%-@field" then
      class.fields[line:match "^%-%-%-@field ([%w_]+)"] = true
    elseif line:match "^%-%-%-@param" then
      local param, type = line:match "^%-%-%-@param ([%w_]+)%??%s+(.*)"
      if param then params[param] = type end
    elseif line:match "^%-%-%-" then
      note = note .. line .. "\n"
    elseif line:match "^local [%w_]+ = {}" then
      of_variable[line:match "^local ([%w_]+)"] = class
    elseif line:match "^function" then
      local variable, called = line:match "^function ([%w_]+)[.:]([%w_]+)"
      local functions = of_variable[variable].functions
      functions[called] = { note = note, params = params }
    end
    if not line:match "^%-%-%-" then note, params = "", {} end
    if line:match "^%-%-%-@class" then note = "" end
  end
  return classes
end

local declared = read_declarations()

local function sorted(set)
  local names = {}
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function names_of(class)
  local all = {}
  for name in pairs(class.fields) do all[name] = true end
  for name in pairs(class.functions) do all[name] = true end
  return sorted(all)
end

-- The names in "{a: integer, b?: table<string, string>} and so on", or those of the class that is named.
local function options_of(type)
  local inline = type:match "^%b{}"
  if not inline then return sorted(declared[type:match "^[%w_.]+"].fields) end
  local names = {}
  for name in inline:gsub("%b<>", ""):gmatch "([%w_]+)%??:" do names[name] = true end
  return sorted(names)
end

local KEYS <const> = [[
  local function keys(value)
    local names = {}
    for name in pairs(value) do names[#names + 1] = name end
    table.sort(names)
    return names
  end
  local function modules(buildq)
    local all = {}
    for _, name in ipairs(keys(buildq)) do
      all[name] = type(buildq[name]) == "table" and keys(buildq[name]) or "function"
    end
    return all
  end
]]

-- What `require "buildq"` has in a pipeline, in a route and in a generation's check.
local function registered()
  local wire = require "buildq.wire"
  test.write("pipelines/probe.lua", KEYS .. [[
    return { run = function(build)
      local buildq = require "buildq"
      local found = { modules = modules(buildq), build = keys(build), customer = keys(build.customer) }
      buildq.fs.write("probe.json", buildq.json.encode(found))
    end }]])
  test.write("routes/probe.lua", KEYS .. [[
    return { method = "GET", path = "/probe", handle = function(request)
      return { json = { modules = modules(require "buildq"), request = keys(request) } }
    end }]])
  local pipeline = wire.decode(test.run("probe"):file "probe.json")
  local route = test.get("/probe").json
  return pipeline, route, test.lua(KEYS .. "return modules(require 'buildq')")
end

describe("the declarations", function()
  local pipeline, route, everywhere

  before_each(function() pipeline, route, everywhere = registered() end)

  local function check_modules(there, place)
    local expected = {}
    for name in pairs(declared.buildq.functions) do expected[name] = "function" end
    for name in pairs(declared.buildq.fields) do
      local class = declared["buildq." .. name]
      assert.truthy(class, "no class buildq." .. name)
      local names, all = names_of(class), {}
      for _, called in ipairs(names) do
        local own = class.functions[called] and class.functions[called].note:match "%[(%a+)%]"
        local where = own or class.note:match "%[(%a+)%]" or "any"
        if place == "check" or where == "any" or where == place then all[#all + 1] = called end
      end
      if #all > 0 then expected[name] = all end
    end
    assert.same(expected, there)
  end

  it("name the modules and functions that there are, in either place and in both", function()
    check_modules(everywhere, "check")
    check_modules(pipeline.modules, "build")
    check_modules(route.modules, "route")
  end)

  it("name what a build has", function()
    assert.same(names_of(declared.Build), pipeline.build)
    assert.same(names_of(declared.Customer), pipeline.customer)
  end)

  it("name what a request has", function()
    assert.same(names_of(declared.Request), route.request)
  end)

  -- A misspelt option makes C list those that there are.
  local function listed(message)
    local names = {}
    local list = message:match "[Tt]here are: (.*)$"
    assert.truthy(list, message)
    for name in list:gmatch "[%w_]+" do names[name] = true end
    return sorted(names)
  end

  local IN_A_PIPELINE <const> = {
    { "Build", "exec", "options", "build:exec { zzz = 1 }" },
    { "Build", "step", "options", "build:step('x', { zzz = 1 }, print)" },
    { "Build", "artifact", "options", "build:artifact('x', { zzz = 1 })" },
    { "Build", "result", "fields", "build:result { zzz = 1 }" },
    { "Build", "fail", "options", "build:fail('x', { zzz = 1 })" },
    { "Build", "all", "options", "build:all({}, { zzz = 1 })" },
    { "buildq.json", "encode", "options", "require('buildq').json.encode(1, { zzz = 1 })" },
    { "buildq.http", "request", "request", "require('buildq').http.request { zzz = 1 }" },
    { "buildq.fs", "write", "options", "require('buildq').fs.write('x', 'y', { zzz = 1 })" },
    { "buildq.archive", "pack", "options", "require('buildq').archive.pack { zzz = 1 }" },
    { "buildq.archive", "unpack", "options", "require('buildq').archive.unpack { zzz = 1 }" },
  }
  for _, row in ipairs(IN_A_PIPELINE) do
    local class, called, param, source = table.unpack(row)
    it(("name the options of %s.%s"):format(class, called), function()
      test.write("pipelines/probe.lua", ("return { run = function(build) %s end }"):format(source))
      assert.same(options_of(declared[class].functions[called].params[param]), listed(test.run("probe").message))
    end)
  end

  it("refuses an imageUrl that is no text", function()
    test.write("pipelines/probe.lua", "return { run = function(build) build:result { imageUrl = 5 } end }")
    local message = test.run("probe").message
    assert.truthy(message:find("build:result: imageUrl: given the number 5, expected a string", 1, true), message)
  end)

  local IN_A_ROUTE <const> = {
    { "buildq.response", "file", "response.file { zzz = 1 }" },
    { "buildq.response", "log_stream", "response.log_stream { zzz = 1 }" },
    { "buildq.response", "event_stream", "response.event_stream { zzz = 1 }" },
    { "buildq.response", "stream", "response.stream(print, { zzz = 1 })" },
    { "buildq.queue", "list", "queue.list { zzz = 1 }" },
    { "buildq.queue", "bulk_retry", "queue.bulk_retry { zzz = 1 }" },
  }
  for _, row in ipairs(IN_A_ROUTE) do
    local class, called, source = table.unpack(row)
    it(("name the options of %s.%s"):format(class, called), function()
      local _, message = test.lua("local response, queue = require('buildq').response, require('buildq').queue\n"
        .. "local ok, fault = pcall(function() " .. source .. " end) return ok, tostring(fault)")
      assert.same(options_of(declared[class].functions[called].params.options), listed(message))
    end)
  end

  it("name what answers have", function()
    test.exec:on("make", { output = "made", signal = 9 })
    test.http:on("GET http://a.example/", { headers = { A = "b" } })
    test.write("pipelines/probe.lua", KEYS .. [[
      return { run = function(build)
        local buildq = require "buildq"
        local fs = buildq.fs
        fs.mkdir "out"
        fs.write("out/a", "a")
        local all = {
          ExecResult = keys(build:exec { argv = { "make" }, capture = true, check = false }),
          HttpAnswer = keys(buildq.http.request { url = "http://a.example/" }),
          FileStat = keys(fs.stat "out/a"),
          PackResult = keys(buildq.archive.pack { dir = "out", to = "a.tar.gz" }),
        }
        fs.write("probe.json", buildq.json.encode(all))
      end }]])
    local result = test.run "probe"
    assert.build_succeeded(result)
    for class, names in pairs(require("buildq.wire").decode(result:file "probe.json")) do
      assert.same(names_of(declared[class]), names, class)
    end
  end)
end)
