-- Files with secrets: 0600, in a directory of the workspace that is there for the time of one command.

local fs = require("buildq").fs

local private = {}
local registered = setmetatable({}, { __mode = "k" })

local DIRECTORY <const> = ".private"
local ALPHABET <const> = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- Base64 (RFC 4648, section 4).
---@param text string
function private.base64(text)
  return (text:gsub("..?.?", function(part)
    local a, b, c = part:byte(1, 3)
    local bits = a << 16 | (b or 0) << 8 | (c or 0)
    local four = ""
    for shift = 18, 0, -6 do
      local digit = bits >> shift & 63
      four = four .. ALPHABET:sub(digit + 1, digit + 1)
    end
    return four:sub(1, #part + 1) .. ("="):rep(3 - #part)
  end))
end

--- Writes files, calls `fn` with the directory's absolute path, and removes them whatever it does.
---@generic T
---@param build Build
---@param files table<string, {text: string, mode: integer}>
---@param fn fun(directory: string): T
---@return T
function private.with(build, files, fn)
  local directory = DIRECTORY .. "/" .. require("buildq").uuid()
  if not registered[build] then
    registered[build] = true
    build:defer(function() fs.remove(DIRECTORY) end) -- also when it is stopped while a command runs
  end
  fs.mkdir(directory)
  for name, file in pairs(files) do fs.write(directory .. "/" .. name, file.text, { mode = file.mode }) end
  local ok, result = pcall(fn, build.workspace .. "/" .. directory)
  fs.remove(directory)
  if not ok then error(result, 0) end
  return result
end

return private
