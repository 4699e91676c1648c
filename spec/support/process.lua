-- Programs started by specs, temporary directories, and waiting for conditions.
--
-- Everything made here is ended and removed at the end of the spec file, also when a spec errors; and since children
-- stay in the process group of busted, tests/run.lua ends them even when busted itself is killed.
local uv = require "luv"
local busted = require "busted"

local process = {}

local children = {} ---@type table<integer, Child> running, by pid
local directories = {} ---@type string[]

process.is_root = uv.getuid() == 0

--- Runs the event loop for a moment: reaps children, reads their output, waits at most `milliseconds`.
---@param milliseconds integer
function process.pump(milliseconds)
  local timer = uv.new_timer()
  -- Repeating: run("once") may call a timer that is due already before it begins to wait, and would then wait for ever.
  timer:start(milliseconds, milliseconds, function() end)
  uv.run("once")
  timer:close()
  uv.run("nowait")
end

--- Called by a condition of wait_for that can't come true any more: ends the waiting with this error.
---@param message string
function process.give_up(message) error({ give_up = message }, 0) end

--- Calls `condition` every few milliseconds until it returns something true, which is returned.
--- After `seconds` (default 10) it is an error that names `what`, and shows what `condition` raised the last time.
---@generic T
---@param condition fun(): T
---@param seconds? number
---@param what? string|fun(): string
---@return T
function process.wait_for(condition, seconds, what)
  local limit = uv.hrtime() + (seconds or 10) * 1e9
  while true do
    local ok, result = pcall(condition)
    if ok and result then return result end
    if type(result) == "table" and result.give_up then error(result.give_up, 2) end
    if uv.hrtime() > limit then
      local text = type(what) == "function" and what() or what or "the condition"
      error(("waited %g seconds in vain for %s%s"):format(seconds or 10, text,
        ok and "" or "; the last try: " .. tostring(result)), 2)
    end
    process.pump(5)
  end
end

---@class Child
---@field pid integer
---@field code integer|nil exit code, once it has ended
---@field signal integer|nil the signal that ended it (0: none), once it has ended
---@field output string standard output, when not sent to a file
---@field errors string standard error, likewise
---@field stdin userdata|nil the pipe that `write` writes to
local Child = {}
Child.__index = Child

local function collect(child, field)
  local pipe = uv.new_pipe(false)
  child.open = child.open + 1
  return pipe, function()
    pipe:read_start(function(_, data)
      if data then
        child[field] = child[field] .. data
      else
        pipe:close()
        child.open = child.open - 1
      end
    end)
  end
end

---@class SpawnOptions
---@field env? table<string, string> the whole environment (default: ours)
---@field cwd? string
---@field user? {uid: integer, gid: integer}
---@field to? string a file that takes both streams (appended), instead of output and errors
---@field stdin? string|true what it reads; true: what `write` gives it while it runs
---@field pipes? userdata[] uv pipes that become its descriptors 3, 4 …

--- Starts a program, found through PATH.
---@param argv string[]
---@param options? SpawnOptions
---@return Child
function process.spawn(argv, options)
  options = options or {}
  local child = setmetatable({ output = "", errors = "", open = 0 }, Child)
  local env
  if options.env then
    env = {}
    for name, value in pairs(options.env) do env[#env + 1] = name .. "=" .. value end
  end
  local stdio, begin, file, stdin = {}, {}, nil, nil
  if options.stdin then
    stdin = uv.new_pipe(false)
    stdio[1] = stdin
  end
  if options.to then
    file = assert(uv.fs_open(options.to, "a", tonumber("644", 8)))
    stdio[2], stdio[3] = file, file
  else
    stdio[2], begin[1] = collect(child, "output")
    stdio[3], begin[2] = collect(child, "errors")
  end
  -- luv's stdio is a list: a hole at 1 would end it, so no input means an empty one.
  if not stdio[1] then stdio[1] = assert(uv.fs_open("/dev/null", "r", 0)) end
  for index, pipe in ipairs(options.pipes or {}) do stdio[3 + index] = pipe end
  local handle, pid = uv.spawn(argv[1], { args = { table.unpack(argv, 2) }, env = env, cwd = options.cwd, stdio = stdio,
    uid = options.user and options.user.uid, gid = options.user and options.user.gid },
    function(code, signal)
      child.code, child.signal = code, signal
      children[child.pid] = nil
      child.handle:close()
      if child.stdin then child.stdin:close() end
    end)
  if type(stdio[1]) == "number" then uv.fs_close(stdio[1]) end
  if file then uv.fs_close(file) end
  assert(handle, ("cannot start %s: %s"):format(argv[1], tostring(pid)))
  child.handle, child.pid = handle, pid
  children[pid] = child
  for _, start in ipairs(begin) do start() end
  if options.stdin == true then
    child.stdin = stdin
  elseif stdin then
    stdin:write(options.stdin, function() stdin:close() end)
  end
  return child
end

--- Gives a program that was started with `stdin = true` something to read.
---@param text string
function Child:write(text) self.stdin:write(text) end

--- Whether it still runs.
function Child:alive()
  uv.run("nowait")
  return self.code == nil
end

---@param signal? string such as "sigterm" (the default)
function Child:kill(signal)
  if self:alive() then uv.kill(self.pid, signal or "sigterm") end
end

--- Waits for its end (and that of its streams); returns exit code and signal.
---@param seconds? number default 10
---@return integer code, integer signal
function Child:wait(seconds)
  process.wait_for(function() return self.code and self.open == 0 end, seconds, "the end of process " .. self.pid)
  return self.code, self.signal
end

--- Runs a program to its end.
---@param argv string[]
---@param options? SpawnOptions
---@return {code: integer, output: string, errors: string}
function process.run(argv, options)
  local child = process.spawn(argv, options)
  child:wait(options and options.seconds or 60)
  return child
end

--- Like run, but an error unless it ends with 0. Returns its output without the last newline.
---@param argv string[]
---@param options? SpawnOptions
---@return string
function process.check(argv, options)
  local done = process.run(argv, options)
  if done.code ~= 0 then
    error(("%s ended with %d: %s"):format(table.concat(argv, " "), done.code, done.errors .. done.output), 2)
  end
  return (done.output:gsub("\n$", ""))
end

--- A new directory, removed at the end of the spec file. Anybody may enter it.
---@return string
function process.directory()
  local base = os.getenv "TMPDIR" or "/tmp"
  if #base > 40 then base = "/tmp" end -- a unix socket's path must stay under 107 bytes
  local path = assert(uv.fs_mkdtemp(base .. "/bq-XXXXXX"))
  assert(uv.fs_chmod(path, tonumber("755", 8)))
  directories[#directories + 1] = path
  return path
end

---@param path string
---@param text string
function process.write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

---@param path string
---@return string # "" when there is no such file
function process.read(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read "a"
  file:close()
  return text
end

local nobody
--- Who PostgreSQL and builds run as when the specs run as root; nil otherwise.
---@return {uid: integer, gid: integer, name: string}|nil
function process.ordinary_user()
  if not process.is_root then return nil end
  if not nobody then
    nobody = { name = "nobody", uid = tonumber(process.check { "id", "-u", "nobody" }),
      gid = tonumber(process.check { "id", "-g", "nobody" }) }
  end
  return nobody
end

--- Ends all children and removes all directories. Called by itself at the end of each spec file.
function process.clean()
  for pid in pairs(children) do uv.kill(pid, "sigkill") end
  pcall(process.wait_for, function() return next(children) == nil end, 10)
  for _, path in ipairs(directories) do process.run { "rm", "-rf", path } end
  directories = {}
end

-- What must end before process.clean, such as a database that wants a proper stop. Last registered, first called.
local endings = {}
---@param fn fun()
function process.at_end(fn) table.insert(endings, 1, fn) end

busted.subscribe({ "file", "end" }, function()
  local list = endings
  endings = {}
  for _, fn in ipairs(list) do
    local ok, message = pcall(fn)
    if not ok then io.stderr:write("# at the end: ", tostring(message), "\n") end
  end
  process.clean()
  return nil, true
end)

return process
