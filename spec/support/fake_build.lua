-- A stand-in for a pipeline's `build`: it notes what the pipeline does and answers commands by a table of the spec's.
local fake = {}

local ENDED <const> = {} -- what fail() raises, so that nothing else is taken for it

---@param module table from fake_buildq.new
---@param fields table manifest, manifest_trusted, …
function fake.new(module, fields)
  local build = {
    id = "b-1", attempt = 1, tier = "Pro", architecture = "linux-x64", cloud = "aws", configuration = "default",
    workspace = "/w", manifest_trusted = true,
    steps = {}, lines = {}, commands = {}, artifacts = {}, results = {}, imports = {},
    on_exec = {}, -- first words of a command line → function(options) returning a result, or an exit code
  }
  for name, value in pairs(fields) do build[name] = value end

  function build:step(name, options, fn)
    self.steps[#self.steps + 1] = { name = name, at = options.at }
    return fn()
  end

  function build:log(text) self.lines[#self.lines + 1] = text end

  function build:exec(options)
    local line = table.concat(options.argv, " ")
    self.commands[#self.commands + 1] = { line = line, options = options }
    local result = { code = 0, duration = 0.1, lines = {}, output = options.capture and "" or nil }
    local longest, answer = 0, nil
    for words, candidate in pairs(self.on_exec) do
      if line:find(words, 1, true) and #words > longest then longest, answer = #words, candidate end
    end
    if type(answer) == "function" then answer = answer(options) end
    if type(answer) == "number" then result.code = answer end
    if type(answer) == "string" then result.output = answer end
    if result.code ~= 0 and options.check ~= false then error(line .. ": exit code " .. result.code, 0) end
    return result
  end

  function build:import(from, to)
    self.imports[#self.imports + 1] = from
    local kind = from:find("%.bundle$") and "file" or "directory"
    module.fs.write(kind == "file" and to or to .. "/Makefile", "all:")
    return kind
  end

  function build:artifact(path, options)
    assert(module.fs.exists(path), "no file " .. path)
    self.artifacts[#self.artifacts + 1] = { path = path, kind = options.kind }
  end

  function build:result(values) self.results[#self.results + 1] = values end

  function build:fail(message, options)
    self.failure = { message = message, retry = not options or options.retry ~= false }
    error(ENDED)
  end

  --- Runs a pipeline; returns whether it came to its end, and the error if it raised one.
  function build:go(pipeline)
    local ok, message = pcall(pipeline.run, self)
    if message == ENDED then message = nil end
    return ok, message
  end

  --- The first command whose line holds `words`, and its place.
  function build:command(words)
    for index, command in ipairs(self.commands) do
      if command.line:find(words, 1, true) then return command, index end
    end
    return nil
  end

  return build
end

return fake
