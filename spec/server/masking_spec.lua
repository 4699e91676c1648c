-- What no log of a build may show though no pipeline asked for it: secrets of the server, and variables named like one.
local Server = require "spec.support.server"
local builds = require "spec.support.builds"
local process = require "spec.support.process"

local SCRIPTS <const> = builds.scripts {
  ["pipelines/tell.lua"] = [[
    return { run = function(build)
      build:exec { argv = { "sh", "-c", build.metadata.line }, env = { NPM_TOKEN = "variable-of-a-command",
        API_KEY = "abc", COLOUR = "visible-colour" } }
    end }]],
}

describe("the log of a build", function()
  local server

  setup(function()
    server = Server.start { scripts = SCRIPTS, env = { DEPLOY_PASSWORD = "variable-of-the-server" },
      config = { Email = { SmtpPassword = "password-of-mail" } } }
  end)
  teardown(function() server:stop() end)

  local function log_of(line)
    local id = builds.submit(server, { pipeline = "tell", metadata = { line = line } })
    builds.await(server, id, "success")
    return builds.log(server, id)
  end

  it("hides configured secrets, and values of variables named like one", function()
    local log = log_of [[echo "a password-of-mail b variable-of-the-server c $NPM_TOKEN d $COLOUR $API_KEY"]]
    assert.truthy(log:find("a *** b *** c *** d visible-colour abc", 1, true), log)
  end)

  it("hides them also when they come in two parts", function()
    local log = log_of [[printf 'x variable-of-'; sleep 0.3; echo 'the-server y'
      printf 'password-' >&2; sleep 0.3; echo 'of-mail' >&2]]
    assert.truthy(log:find("x *** y", 1, true), log)
    assert.falsy(log:find("of-mail", 1, true), log)
  end)

  it("hides their base64", function()
    local log = log_of "printf 'user:variable-of-the-server' | base64; printf 'password-of-mail' | base64"
    assert.truthy(log:find("***", 1, true), log)
    for _, text in ipairs { "user:variable-of-the-server", "password-of-mail" } do
      local code = process.check({ "base64" }, { stdin = text })
      assert.falsy(log:find(code:sub(8, 20), 1, true), log)
    end
  end)

  it("hides what a reload brings", function()
    server.config.Email.SmtpPassword = "password-since-today"
    server:write_config()
    server:kill "sighup"
    server:wait_for(function() return server:log():find("option=Email.SmtpPassword", 1, true)
      or server:log():find("SmtpPassword", 1, true) end, 20)
    local log = log_of "echo 'a password-since-today b password-of-mail c'"
    assert.truthy(log:find("a *** b *** c", 1, true), log)
  end)
end)
