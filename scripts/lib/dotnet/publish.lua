-- `dotnet publish` of each program for each target, several at a time.

local arguments = require "dotnet.arguments"
local catalogue = require "catalogue"
local fs = require("buildq").fs

local publish = {}

local CAPTURE <const> = 16 * 1024 * 1024
local ERRORS_SHOWN <const> = 3
local FROM <const>, TO <const> = 50, 80 -- percent of the build

--- What compilers have found, each once, with paths as they are in the repository.
---@param output string
---@param base string the directory of the sources
---@return string[]
function publish.errors(output, base)
  local seen, errors = {}, {}
  for line in output:gmatch("[^\r\n]+") do
    local place, code, message = line:match("^%s*(.-)%s*:?%s*error (%a+%d+)%s*:%s*(.*)$")
    if code then
      local start = place:find(base, 1, true)
      if start then place = place:sub(start + #base + 1) end
      message = message:gsub("%s*%[[^%[%]]*%]%s*$", "")
      local text = ("%serror %s: %s"):format(place ~= "" and place .. ": " or "", code, message)
      if not seen[text] then
        seen[text] = true
        errors[#errors + 1] = text
      end
    end
  end
  return errors
end

-- A source of packages that doesn't answer may answer later; code that doesn't compile stays so.
local function is_passing(errors)
  for _, text in ipairs(errors) do
    if not (text:find("error NU1301", 1, true) or text:find("error NU1801", 1, true)) then return false end
  end
  return #errors > 0
end

---@class Published
---@field target PlanTarget
---@field dir string where its files are
---@field artifacts string
---@field failure? string
---@field passing? boolean trying again may help
---@field seconds number

-- Targets with the same flags are compiled once, whatever their provider and registry.
local function jobs_of(work)
  local jobs, by_key, order = {}, {}, {}
  local canonical = require "canonical"
  for _, target in ipairs(work.plan.targets) do
    local key = canonical.encode { a = target.architecture, o = target.optimizations }
    if not by_key[key] then
      by_key[key] = { target = target, dir = "publish/" .. target.id, artifacts = "artifacts/" .. target.id,
        seconds = 0 }
      jobs[#jobs + 1] = by_key[key]
    end
    order[target.id] = by_key[key]
  end
  return jobs, order
end

local function command(work, job, project, several)
  local target = job.target
  local here = catalogue.architectures[work.build.config.MachineArchitecture]
  local there = catalogue.architectures[target.architecture]
  local cross = here and there.cpu ~= here.cpu and there.triplet or nil
  local options = {
    project = work.build.workspace .. "/" .. project.path,
    output = ("%s/%s%s"):format(work.build.workspace, job.dir, several and "/" .. project.name or ""),
    artifacts = work.build.workspace .. "/" .. job.artifacts,
    workspace = work.build.workspace,
    nuget_source = work.dotnet.source,
  }
  if #target.optimizations.ilcOptions > 0 and target.optimizations.nativeAot then
    fs.mkdir(job.artifacts)
    options.targets_file = ("%s/%s/ilc.targets"):format(work.build.workspace, job.artifacts)
    fs.write(options.targets_file, arguments.targets_file(target.optimizations.ilcOptions))
  end
  return arguments.publish(target, work.plan.properties, options, cross)
end

local function why(result, work)
  local errors = publish.errors(result.output or "", work.build.workspace .. "/source")
  if #errors == 0 then
    return ("dotnet publish ended with %d: %s"):format(result.code, table.concat(result.lines, " | ",
      math.max(1, #result.lines - 4))), true
  end
  local shown = table.concat(errors, " | ", 1, math.min(#errors, ERRORS_SHOWN))
  if #errors > ERRORS_SHOWN then shown = ("%s | and %d more"):format(shown, #errors - ERRORS_SHOWN) end
  return shown, is_passing(errors)
end

local function publish_one(work, job)
  local several = #work.hosts > 1
  for _, project in ipairs(work.hosts) do
    local argv = command(work, job, project, several)
    work.commands[#work.commands + 1] = table.concat(argv, " ")
    local ok, result = pcall(work.build.exec, work.build, {
      argv = argv, cwd = "source", env = work.dotnet.env, mounts = work.dotnet.mounts, timeout = work.plan.timeout,
      capture = CAPTURE, check = false,
    })
    if not ok then
      if type(result) ~= "table" or result.kind ~= "timeout" then error(result, 0) end
      job.failure, job.passing = result.message, false
      return
    end
    job.seconds = job.seconds + result.duration
    if result.code ~= 0 then
      job.failure, job.passing = why(result, work)
      return
    end
  end
end

-- What became of each target comes first: a long message is cut at its end.
local function report(work, jobs)
  local failed, built, why_failed, passing = {}, {}, {}, true
  for _, job in ipairs(jobs) do
    local list = job.failure and failed or built
    list[#list + 1] = job.target.id
    if job.failure then
      why_failed[#why_failed + 1] = ("target %s: %s"):format(job.target.id, job.failure)
      passing = passing and job.passing
    end
  end
  if #failed == 0 then return end
  local text = table.concat(why_failed, "; ")
  if #jobs > 1 then
    text = ("failed: %s; built: %s; %s"):format(table.concat(failed, ", "),
      #built > 0 and table.concat(built, ", ") or "none", text)
  end
  work.build:fail(text, { retry = passing == true })
end

--- Publishes all programs for all targets; ends the build when one fails, after the others have ended.
---@param work Work with hosts and dotnet
---@return table<string, Published> by the target's id
function publish.run(work)
  local jobs, by_target = jobs_of(work)
  local done, fns = 0, {}
  for index, job in ipairs(jobs) do
    fns[index] = function()
      publish_one(work, job)
      done = done + 1
      work.build:log(job.failure and ("%s failed: %s"):format(job.target.id, job.failure)
        or ("%s is built, %.1f s"):format(job.target.id, job.seconds))
      work.build:progress(FROM + (TO - FROM) * done / #jobs, ("%d of %d targets"):format(done, #jobs))
    end
  end
  work.build:all(fns, { limit = math.max(1, math.min(work.plan.parallelism, work.jobs)) })
  report(work, jobs)
  return by_target
end

return publish
