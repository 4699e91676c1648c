-- The file that is shared with the program under torture (inject.c maps it): what is to fail, and what was called.
local uv = require "luv"

local control = {}

--- In the order of torture_class (inject.h).
control.CLASSES = { "memory", "lua", "json", "event", "file", "read", "write", "fsync", "spawn", "libpq", "libcurl",
  "crypto" }

-- The layout of struct control and struct place (inject.c), each field 8 bytes unless said otherwise.
local FIELDS <const> = { armed = 0, hash = 1, class = 2, nth = 3, times = 4, seen = 5, failed = 6, leaks_wanted = 7,
  leaks_searched = 8, leaks = 9, unplaced = 10 }
local FRAMES <const>, PLACES <const> = 10, 16384
local STRUCK_FROM <const> = 11 * 8
local PLACES_FROM <const> = STRUCK_FROM + FRAMES * 8
local PLACE_FORMAT <const> = "<I8I8I8c32" .. ("I8"):rep(FRAMES)
local PLACE_BYTES <const> = string.packsize(PLACE_FORMAT)

---@class Place
---@field hash integer
---@field calls integer
---@field class string
---@field name string the function that was called
---@field frames integer[] return addresses of its callers in the program, innermost first

---@class Control
---@field path string
local Control = {}
Control.__index = Control

--- A new file.
---@param path string
---@return Control
function control.new(path)
  local fd = assert(uv.fs_open(path, "w+", tonumber("666", 8)))
  assert(uv.fs_ftruncate(fd, PLACES_FROM + PLACES * PLACE_BYTES))
  return setmetatable({ path = path, fd = fd }, Control)
end

function Control:get(field) return (string.unpack("<I8", assert(uv.fs_read(self.fd, 8, FIELDS[field] * 8)))) end
function Control:set(field, value) assert(uv.fs_write(self.fd, string.pack("<I8", value), FIELDS[field] * 8)) end

local function class_number(name)
  for i, each in ipairs(control.CLASSES) do if each == name then return i - 1 end end
end

--- From now on calls are counted; with a target, the `nth` call of its place fails.
---@param target? Target
function Control:arm(target)
  self:set("armed", 0)
  self:set("hash", target and target.hash or 0)
  self:set("class", target and class_number(target.place.class) or #control.CLASSES)
  self:set("nth", target and target.nth or 0)
  self:set("times", 1)
  self:set("seen", 0)
  self:set("failed", 0)
  self:set("armed", 1)
end

--- Returns how many calls have failed since `arm`.
---@return integer
function Control:disarm()
  self:set("armed", 0)
  return self:get "failed"
end

--- The callers of the call that has failed, innermost first.
---@return integer[]
function Control:struck()
  local bytes, list = assert(uv.fs_read(self.fd, FRAMES * 8, STRUCK_FROM)), {}
  for i = 1, FRAMES do
    local address = string.unpack("<I8", bytes, i * 8 - 7)
    if address ~= 0 then list[i] = address end
  end
  return list
end

--- Forgets what was counted.
function Control:clear()
  assert(uv.fs_ftruncate(self.fd, PLACES_FROM))
  assert(uv.fs_ftruncate(self.fd, PLACES_FROM + PLACES * PLACE_BYTES))
end

--- What was counted, in no order.
---@return Place[]
function Control:places()
  local bytes, list = assert(uv.fs_read(self.fd, PLACES * PLACE_BYTES, PLACES_FROM)), {}
  for at = 1, #bytes, PLACE_BYTES do
    local hash, calls, class, name = string.unpack(PLACE_FORMAT, bytes, at)
    if hash ~= 0 and calls ~= 0 then
      local place = { hash = hash, calls = calls, class = control.CLASSES[class + 1], name = name:match "^%Z*",
        frames = {} }
      for i = 1, FRAMES do
        local address = select(4 + i, string.unpack(PLACE_FORMAT, bytes, at))
        if address ~= 0 then place.frames[i] = address end
      end
      list[#list + 1] = place
    end
  end
  return list
end

return control
