-- The tutorial of scripts/README.md, out of its own text: every `sh` block is run, in one shell; every `text` block is
-- what the block before it prints ("…" stands for anything).
local uv = require "luv"
local Server = require "spec.support.server"
local process = require "spec.support.process"

local function tutorial()
  local text = process.read "scripts/README.md"
  return assert(text:match "\n## Tutorial\n(.-)\n## ", "there is no tutorial")
end

---@return {code: string, prints: string[]}[]
local function blocks_of(text)
  local blocks = {}
  for kind, body in text:gmatch "\n```(%w+)\n(.-)\n```" do
    if kind == "sh" then
      blocks[#blocks + 1] = { code = body, prints = {} }
    elseif kind == "text" then
      for line in (body .. "\n"):gmatch "(.-)\n" do table.insert(blocks[#blocks].prints, line) end
    end
  end
  return blocks
end

-- Whether the lines stand in the output in this order, each as a whole line but for what "…" covers.
local function missing_line(output, lines)
  local at = 1
  for _, line in ipairs(lines) do
    local pattern = "\n" .. line:gsub("[%^%$%(%)%%%.%[%]%*%+%-%?]", "%%%0"):gsub("…", "[^\n]-")
    local _, last = ("\n" .. output):find(pattern .. (line:find "…$" and "" or "\r?%f[\n\0]"), at)
    if not last then return line end
    at = last - 1
  end
  return nil
end

local function free_port()
  local socket = uv.new_tcp()
  socket:bind("127.0.0.1", 0)
  local port = socket:getsockname().port
  socket:close()
  return port
end

describe("the tutorial", function()
  it("does what it says, command by command", function()
    local directory = process.directory()
    local blocks = blocks_of(tutorial())
    assert.is_true(#blocks >= 9)
    local parts = { "exec 2>&1", "trap 'kill $! && wait' EXIT", "cd " .. directory }
    for n, block in ipairs(blocks) do
      parts[#parts + 1] = ("echo '@@@ %d'\n%s"):format(n, block.code)
    end
    parts[#parts + 1] = "echo '@@@ end'\n"
    local script = table.concat(parts, "\n"):gsub("8090", tostring(free_port()))
    process.write(directory .. "/tutorial.sh", script)
    local argv = { "bash", directory .. "/tutorial.sh" }
    local program = assert(uv.fs_realpath(Server.program():match "^(.*)/"))
    local user = process.ordinary_user()
    if user then
      -- Installed where that user gets at it: our own directory may be in root's home.
      process.check { "make", "-s", "install", "BUILD=" .. (os.getenv "BUILDQ_BUILD" or "build"), "PREFIX=/usr",
        "DESTDIR=" .. directory .. "/installed" }
      program = directory .. "/installed/usr/bin"
      process.check { "chown", ("%d:%d"):format(user.uid, user.gid), directory }
      argv = { "setpriv", "--reuid", tostring(user.uid), "--regid", tostring(user.gid), "--clear-groups",
        table.unpack(argv) }
    end
    local env = uv.os_environ()
    env.PATH = program .. ":" .. env.PATH
    env.HOME, env.TMPDIR = directory, directory
    env.BUILDQ_SERVER, env.BUILDQ_CONFIG = nil, nil
    local done = process.run(argv, { env = env, seconds = 120 })
    for n, block in ipairs(blocks) do
      local output = done.output:match(("@@@ %d\n(.-)@@@ "):format(n))
      assert.truthy(output, ("block %d was not reached:\n%s"):format(n, done.output))
      local line = missing_line(output, block.prints)
      assert.is_nil(line, ("block %d does not print %q:\n%s\nbut\n%s"):format(n, tostring(line), block.code, output))
    end
  end)
end)
