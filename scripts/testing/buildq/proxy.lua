-- Values that stay in the runtime (functions, modules, objects) have a stand-in here: calls and fields go there.
local wire = require "buildq.wire"

---@class ProxyModule
---@field desk fun(operation: string, object: integer?, source: string?, ...): any set by buildq.test
local proxy = {}

local kept = setmetatable({}, { __mode = "k" }) -- stand-in → its number in the runtime
local Proxy = {}

function Proxy.__index(self, key) return (proxy.desk("index", kept[self], nil, key)) end
function Proxy.__newindex(self, key, value) proxy.desk("assign", kept[self], nil, key, value) end
function Proxy.__call(self, ...) return proxy.desk("call", kept[self], nil, ...) end
function Proxy.__len(self) return (proxy.desk("length", kept[self])) end
function Proxy.__pairs(self)
  local names = proxy.desk("keys", kept[self])
  local place = 0
  return function()
    place = place + 1
    if names[place] ~= nil then return names[place], self[names[place]] end
  end
end

local function give(value)
  if value == nil then return { none = true } end
  if kept[value] then return { kept = kept[value] } end
  if type(value) == "function" then
    error("a function of the spec can't be given to the runtime: write it as Lua text for test.lua", 4)
  end
  return { value = value }
end

function proxy.arguments(...)
  local all = setmetatable({}, { __jsontype = "array" })
  for place = 1, select("#", ...) do all[place] = give((select(place, ...))) end
  return all
end

local function take(value)
  if value.none then return nil end
  if not value.kept then return value.value end
  local stand_in = setmetatable({}, Proxy)
  kept[stand_in] = value.kept
  return stand_in
end

function proxy.results(values)
  local all = {}
  for place, value in ipairs(values) do all[place] = take(value) end
  return table.unpack(all, 1, #values)
end

proxy.null = wire.null

return proxy
