-- A stand-in for the server's module "buildq", for specs that run a script without a server: files and artifacts are
-- tables, the queue answers what a spec tells it to.
local dkjson = require "dkjson"

local fake = {}

local null <const> = io.stdout -- any userdata will do

local function decode(text)
  local value, _, message = dkjson.decode(text, 1, null)
  if message then return nil, message end
  return value
end

local function encode(value)
  return (dkjson.encode(value, { exception = function() return "null" end }))
end

fake.decode, fake.encode, fake.null = decode, encode, null

local function make_fs(files)
  local fs = {}
  local function below(path) return (path:gsub("/+$", "")) .. "/" end

  function fs.write(path, text) files[path] = text end
  function fs.read(path) return files[path] or error("no file " .. path) end
  function fs.mkdir(path) files[below(path)] = true end

  function fs.exists(path)
    for name in pairs(files) do
      if name == path or name:sub(1, #path + 1) == below(path) then return true end
    end
    return false
  end

  function fs.stat(path)
    if type(files[path]) == "string" then return { type = "file", size = #files[path] } end
    return fs.exists(path) and { type = "directory" } or nil
  end

  function fs.list(path)
    local seen, names = {}, {}
    for name in pairs(files) do
      local entry = name:sub(1, #path + 1) == below(path) and name:sub(#path + 2):match("^[^/]+")
      if entry and not seen[entry] then
        seen[entry] = true
        names[#names + 1] = entry
      end
    end
    table.sort(names)
    return names
  end

  local function each(path, action)
    local names = {}
    for name in pairs(files) do
      if name == path or name:sub(1, #path + 1) == below(path) then names[#names + 1] = name end
    end
    for _, name in ipairs(names) do action(name) end
  end

  function fs.remove(path) each(path, function(name) files[name] = nil end) end
  function fs.copy(from, to) each(from, function(name) files[to .. name:sub(#from + 1)] = files[name] end) end
  function fs.move(from, to) fs.copy(from, to) fs.remove(from) end
  return fs
end

--- A new module; `files` is the workspace, path → text.
function fake.new(files)
  local module = {
    files = files or {}, packed = {}, calls = {},
    json = {
      null = null, encode = encode, decode = decode,
      array = function(list) return setmetatable(list or {}, { __jsontype = "array" }) end,
      is_array = function(value) return require("check").is_array(value) end,
    },
    config = { AllowInlineCommands = false, EnableHealthChecks = true },
    archive = {}, queue = {}, response = {},
    sha256 = function(text) return ("%064x"):format(#text) end,
    uuid = function() return "01890000-0000-7000-8000-000000000001" end,
  }
  module.fs = make_fs(module.files)

  function module.archive.pack(options)
    module.packed[#module.packed + 1] = options
    module.files[options.to] = "packed"
    return { path = options.to, size = 6, sha256 = ("a"):rep(64), files = 1 }
  end

  -- queue.x(...) is noted in calls.x and gives what `module.answers.x` holds: a function, or a list {value, failure}.
  module.answers = {}
  setmetatable(module.queue, { __index = function(_, name)
    return function(...)
      module.calls[name] = { ... }
      local answer = assert(module.answers[name], "the spec gives no answer for queue." .. name)
      if type(answer) == "function" then return answer(...) end
      return table.unpack(answer, 1, 2)
    end
  end })
  setmetatable(module.response, { __index = function(_, kind)
    return function(options) return { kind = kind, options = options } end
  end })
  return module
end

local OURS <const> = {
  "buildq", "check", "manifest", "product", "problem", "request", "intake", "reply", "source", "toolchain",
}

--- Makes `module` what `require "buildq"` gives, and has our modules read anew.
function fake.install(module)
  for _, name in ipairs(OURS) do package.loaded[name] = nil end
  package.loaded.buildq = module
  return module
end

function fake.remove()
  for _, name in ipairs(OURS) do package.loaded[name] = nil end
end

return fake
