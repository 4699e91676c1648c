-- README's examples, out of its own text, on a real server: the first pipeline and the API with curl.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

describe("README", function()
  local readme = process.read "README.md"
  local server

  setup(function() server = Server.start() end)
  teardown(function() server:stop() end)

  local function section(title)
    return assert(readme:match("\n## " .. title .. "\n(.-)\n## "), "there is no " .. title)
  end

  local function shell(command, id)
    local text = command:gsub("localhost:8080", server.address)
    local env = { PATH = os.getenv "PATH", ID = id }
    local done = process.run({ "sh", "-c", text }, { env = env, cwd = server.directory })
    assert.equal(0, done.code, command .. ": " .. done.errors)
    return done.output
  end

  it("has a first pipeline of ten lines, which works as it is ordered there", function()
    local text = section "The first pipeline in ten lines"
    local pipeline = assert(text:match "\n```lua\n(.-)```")
    assert.is_true(select(2, pipeline:gsub("\n", "")) <= 10)
    server:write("scripts", { ["pipelines/hello.lua"] = pipeline })
    server:wait_for(function() return server:log():find("scripts are active.*scripts are active") end, 10)
    local id = assert(shell(text:match "\n```sh\n(.-)```"):match '"jobId":"([^"]+)"')
    builds.await(server, id, "success")
    assert.equal("hello Acme\n", server:get(("/downloads/%s/hello.txt"):format(id)).body)
  end)

  it("has curl examples that work", function()
    server:write("scripts", builds.scripts())
    server:wait_for(function() return server:log():find("pipelines/quick.lua") or
      server:post("/builds", builds.request()).status == 202 end, 10)
    server:post("/queue/pause", { reason = "spec" })
    local id = builds.submit(server)
    local count = 0
    for command in assert(section("The API"):match "\n```sh\n(curl.-)```"):gmatch "[^\n]+" do
      count = count + 1
      local output = shell(command, id)
      -- The download is the demonstration build's: spec/server/two_commands_spec.lua.
      if not command:find("/downloads/", 1, true) then assert.is_nil(output:find '"status":[45]', output) end
    end
    assert.is_true(count >= 8)
    local build = server:get("/builds/" .. id).json
    assert.same({ "cancelled", 2, "wrong tier" }, { build.status, build.priority, build.errorMessage })
    assert.equal("maintenance", server:get("/queue").json.reason)
  end)
end)
