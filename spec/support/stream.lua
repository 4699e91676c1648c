-- A long answer, read while it comes: logs that are followed, server-sent events.
--
--   local stream = Stream.open(server, "/builds/" .. id .. "/log?follow=1")
--   stream:wait_for("waiting")      -- until the body so far holds it (a plain text)
--   stream:wait_end()               -- until the server has ended it
--   assert.equal(200, stream.status)
local process = require "spec.support.process"

---@class Stream
---@field status integer|nil
---@field headers table<string, string> names in lower case
---@field body string what has come so far, without the chunks' frames
---@field ended boolean the last chunk has come
---@field broken string|nil why the connection ended before that
local Stream = {}
Stream.__index = Stream

--- Begins a GET; returns without waiting for the answer.
---@param headers? table<string, string>
---@return Stream
function Stream.open(server, path, headers)
  local self = setmetatable({ server = server, path = path, raw = "", headers = {}, body = "", ended = false }, Stream)
  self.connection = server:connect()
  local lines = { ("GET %s HTTP/1.1"):format(path), "Host: " .. server.address, "Connection: close" }
  for name, value in pairs(headers or {}) do lines[#lines + 1] = name .. ": " .. value end
  assert(self.connection:send(table.concat(lines, "\r\n") .. "\r\n\r\n"))
  self.connection:settimeout(0)
  return self
end

function Stream:read_head()
  local head, rest = self.raw:match "^(.-)\r\n\r\n(.*)$"
  if not head then return end
  self.status = tonumber(head:match "^HTTP/1%.1 (%d%d%d)")
  for name, value in head:gmatch "\n([^:\r\n]+): *([^\r\n]*)" do self.headers[name:lower()] = value end
  self.raw = rest
  self.left = tonumber(self.headers["content-length"])
end

function Stream:read_body()
  if self.left then
    self.body, self.raw = self.body .. self.raw, ""
    self.ended = #self.body >= self.left
    return
  end
  local parts, at = {}, 1
  while not self.ended do
    local size, from = self.raw:match("^(%x+)[^\n]*\r\n()", at)
    if not size or #self.raw < from + tonumber(size, 16) + 1 then break end
    size = tonumber(size, 16)
    parts[#parts + 1] = self.raw:sub(from, from + size - 1)
    at = from + size + 2
    self.ended = size == 0
  end
  self.body, self.raw = self.body .. table.concat(parts), self.raw:sub(at)
end

--- Takes what has come, without waiting.
---@return Stream
function Stream:take()
  if self.ended or self.broken then return self end
  local parts = { self.raw }
  repeat
    local data, why, part = self.connection:receive(65536)
    parts[#parts + 1] = data or part
    if why == "closed" then self.broken = why end
  until not data
  self.raw = table.concat(parts)
  if not self.status then self:read_head() end
  if self.status then self:read_body() end
  if self.ended then self.connection:close() end
  return self
end

local function shown(self)
  return ("%s; %s, %d bytes so far, they end in:\n%s"):format(self.path, self.status, #self.body, self.body:sub(-500))
end

--- Until the body holds a plain text; the end of the answer without it is an error.
function Stream:wait_for(text, seconds)
  self.server:wait_for(function()
    if self:take().body:find(text, 1, true) then return true end
    if self.ended or self.broken then process.give_up(("it ended without %q: %s"):format(text, shown(self))) end
  end, seconds or 20, function() return ("%q in %s"):format(text, shown(self)) end)
  return self
end

--- Until the server has ended it in order.
function Stream:wait_end(seconds)
  self.server:wait_for(function()
    if self:take().ended then return true end
    if self.broken then process.give_up("the connection broke off: " .. shown(self)) end
  end, seconds or 20, function() return "the end of " .. shown(self) end)
  return self
end

--- Goes away, whatever is still to come.
function Stream:close() self.connection:close() end

--- The server-sent events so far: a list of {id=, event=, data=}, the data decoded.
function Stream:events()
  local list = {}
  for block in self.body:gmatch "(.-)\n\n" do
    local event = {}
    for line in block:gmatch "[^\n]+" do
      local name, value = line:match "^(%l+): (.*)$"
      if name then event[name] = value end
    end
    if event.data then
      event.data = require("dkjson").decode(event.data)
      list[#list + 1] = event
    end
  end
  return list
end

return Stream
