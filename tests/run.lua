-- Runs test programs and specs side by side and sums them up: lua5.4 tests/run.lua [-j N] [-t SECONDS] FILE...
--
-- A FILE that ends in .lua is a busted spec (those of spec/runtime are run by `buildq test`), any other is a cmocka
-- binary; both speak TAP. What failed is shown whole. A file that dies before its last test, or reports nothing at
-- all, counts as one failed test. The limit -t is the time between two results (so for one test), after which the
-- file's process group is killed. Ends in the one line `N passed, N failed`, with `, N skipped` when there are any;
-- exit code 0 only if none failed.
local uv = require "luv"

local parallel, limit, files = 2, 300, {}
do
  local i = 1
  while arg[i] do
    if arg[i] == "-j" or arg[i] == "-t" then
      local value = assert(tonumber(arg[i + 1]), arg[i] .. " needs a number")
      if arg[i] == "-j" then parallel = value else limit = value end
      i = i + 1
    else
      files[#files + 1] = arg[i]
    end
    i = i + 1
  end
end

local function now() return uv.hrtime() / 1e9 end

---@class Job
---@field file string
---@field pid integer also the process group
---@field rest string the line that has begun
---@field lines string[] all lines so far
---@field plan integer|nil number of tests the file announced
---@field passed integer
---@field failed integer
---@field skipped integer
---@field reasons string[] why, where a test has said so
---@field began number
---@field last number when the last result came
---@field killed boolean the limit was reached
---@field open integer ends still awaited: two streams and the exit
---@field code integer exit code
---@field signal integer signal that ended it, or 0
---@field directory string TMPDIR of the file, removed with all that it left there
local next_file, running, total = 1, {}, { passed = 0, failed = 0, skipped = 0 }

local function take_line(job, line)
  job.lines[#job.lines + 1] = line
  local plan = line:match "^1%.%.(%d+)"
  if plan then job.plan = tonumber(plan) end
  local ok, rest = line:match "^(n?o?t? ?)ok %d+( .*)"
  if not ok then return end
  job.last = now()
  if rest:find "^ ?%-? ?# SKIP" then -- cmocka writes "not ok" for these
    job.skipped = job.skipped + 1
    local reason = rest:match "# SKIP (%S.*)"
    if reason then job.reasons[#job.reasons + 1] = reason end
  elseif ok == "" then
    job.passed = job.passed + 1
  else
    job.failed = job.failed + 1
  end
end

-- What is wrong with the file as a whole, beside its failed tests; nil if nothing.
local function verdict(job)
  local seen = job.passed + job.failed + job.skipped
  if job.killed then return ("no result for %d seconds: killed"):format(limit) end
  if job.signal ~= 0 then return ("ended by signal %d after %d tests"):format(job.signal, seen) end
  if not job.plan or seen < job.plan then
    return ("ended with code %d after %d of %s tests"):format(job.code, seen, job.plan or "?")
  end
  if job.code ~= 0 and job.failed == 0 then
    return ("all tests passed, yet it ended with code %d"):format(job.code)
  end
end

local function report(job)
  if job.rest ~= "" then take_line(job, job.rest) end
  local trouble = verdict(job)
  if trouble then job.failed = job.failed + 1 end
  for kind in pairs(total) do total[kind] = total[kind] + job[kind] end
  print(("%-48s %4d passed %3d failed %6.1f s"):format(job.file, job.passed, job.failed, now() - job.began))
  for _, reason in ipairs(job.reasons) do print("  | skipped: " .. reason) end
  if job.failed > 0 then
    for _, line in ipairs(job.lines) do
      if not line:find "^ok %d" then print("  | " .. line) end
    end
    if trouble then print("  | " .. job.file .. ": " .. trouble) end
  end
  io.stdout:flush()
end

local start_more

local function close_one(job)
  job.open = job.open - 1
  if job.open > 0 then return end
  running[job] = nil
  os.execute("rm -rf " .. job.directory)
  report(job)
  start_more()
end

local function follow(job, pipe)
  pipe:read_start(function(_, data)
    if not data then
      pipe:close()
      return close_one(job)
    end
    local from = 1
    local text = job.rest .. data
    for line, after in text:gmatch "([^\n]*)\n()" do
      take_line(job, line)
      from = after
    end
    job.rest = text:sub(from)
  end)
end

local function environment(directory)
  local all = uv.os_environ()
  all.CMOCKA_MESSAGE_OUTPUT, all.TMPDIR = "TAP", directory
  local list = {}
  for name, value in pairs(all) do list[#list + 1] = name .. "=" .. value end
  return list
end

local function start(file)
  -- One pipe carries both streams, so that lines keep their order.
  local ends = assert(uv.pipe({ nonblock = true }, {}))
  local pipe = uv.new_pipe(false)
  pipe:open(ends.read)
  local directory = assert(uv.fs_mkdtemp "/tmp/bqt-XXXXXX")
  assert(uv.fs_chmod(directory, tonumber("1777", 8))) -- tests that run as root do some of their work as somebody else
  local job = { file = file, directory = directory, rest = "", lines = {}, began = now(), last = now(), passed = 0,
    failed = 0, skipped = 0, reasons = {}, killed = false, open = 2, code = 0, signal = 0 }
  local program, arguments = file, {}
  if file:find "%.lua$" then
    -- busted's TAP has no words for a file that does not compile.
    local _, fault = loadfile(file)
    job.lines[1] = fault
    program, arguments = "lua5.4", { "/usr/bin/busted", "--output=TAP", file }
    if file:find "^spec/runtime/" then
      program, arguments = (os.getenv "BUILDQ_BUILD" or "build") .. "/buildq", { "test", "--output=TAP", file }
    end
  end
  local handle, pid = uv.spawn(program, { args = arguments, env = environment(directory),
    stdio = { nil, ends.write, ends.write }, detached = true }, function(code, signal)
    job.code, job.signal = code, signal
    uv.kill(-job.pid, "sigkill") -- whatever it left in its process group must not outlive it
    close_one(job)
  end)
  uv.fs_close(ends.write)
  job.pid = pid
  running[job] = true
  if not handle then
    job.lines[1], job.open, job.code = ("cannot start: %s"):format(pid), 1, 127
  end
  follow(job, pipe)
end

function start_more()
  local count = 0
  for _ in pairs(running) do count = count + 1 end
  while count < parallel and next_file <= #files do
    next_file, count = next_file + 1, count + 1
    start(files[next_file - 1])
  end
end

local watchdog = uv.new_timer()
watchdog:start(1000, 1000, function()
  for job in pairs(running) do
    if now() - job.last > limit and not job.killed then
      job.killed = true
      uv.kill(-job.pid, "sigkill")
    end
  end
end)
watchdog:unref()

-- Interrupted, nothing of ours stays behind.
for _, name in ipairs { "sigint", "sigterm", "sighup" } do
  local handle = uv.new_signal()
  handle:start(name, function()
    for job in pairs(running) do
      uv.kill(-job.pid, "sigkill")
      os.execute("rm -rf " .. job.directory)
    end
    os.exit(130)
  end)
  handle:unref()
end

start_more()
uv.run()

print(("%d passed, %d failed%s"):format(total.passed, total.failed,
  total.skipped > 0 and (", %d skipped"):format(total.skipped) or ""))
os.exit(total.failed == 0 and #files > 0 and 0 or 1)
