-- lua5.4 spec/support/faulty.lua PORT UPSTREAM FILE: passes the requests of a web server, one a connection, on to
-- another port of loopback. What the first word of FILE says goes wrong, for as long as it is there; the second one is
-- different each time:
--
--   500     what uploads anything is answered 500
--   third   the third blob that comes is answered 500, once
--   cut     the connection ends in the middle of what is uploaded
--   stall   what uploads anything waits; FILE.reached is written when something does
local uv = require "luv"

local PORT <const>, UPSTREAM <const>, FILE <const> = tonumber(arg[1]), tonumber(arg[2]), arg[3]
local HALF <const> = 100000 -- bytes that pass before the cut
local ANSWER <const> = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

local blobs = 0 -- that came since the fault began
local last -- what FILE said then

local function fault_of(request)
  local file = io.open(FILE)
  local line = file and file:read "l"
  if file then file:close() end
  if line ~= last then blobs, last = 0, line end
  local kind = line and line:match "%S+"
  local method, path = request:match "^(%u+) (%S+)"
  if kind == "cut" and method == "PATCH" then return "cut" end
  if kind == "stall" and method == "PATCH" then return "stall" end
  if kind == "500" and (method == "PATCH" or method == "PUT") then return "500" end
  if kind == "third" and method == "PUT" and path:find("/blobs/uploads/", 1, true) then
    blobs = blobs + 1
    if blobs == 3 then return "500" end
  end
  return nil
end

local function close(...)
  for _, each in ipairs { ... } do
    if not each:is_closing() then each:close() end
  end
end

-- An answer, to its end: what is still to be written goes before the end does.
local function pass(from, to)
  from:read_start(function(_, data)
    if to:is_closing() then return close(from) end
    if data then return to:write(data) end
    to:shutdown(function() close(from, to) end)
  end)
end

local function forward(client, first, most)
  local target = uv.new_tcp()
  target:connect("127.0.0.1", UPSTREAM, function(failure)
    if failure then return close(client, target) end
    pass(target, client)
    local passed = 0
    local function send(data)
      if target:is_closing() then return end
      if most and passed + #data > most then
        target:write(data:sub(1, most - passed), function() close(client, target) end)
        return
      end
      passed = passed + #data
      target:write(data)
    end
    send(first)
    client:read_start(function(_, data)
      if not data then return close(client, target) end
      send(data)
    end)
  end)
end

local function wait(client, request)
  assert(assert(io.open(FILE .. ".reached", "w")):close())
  local timer = uv.new_timer()
  timer:start(20, 20, function()
    if fault_of(request) == "stall" then return end
    timer:close()
    if not client:is_closing() then forward(client, request) end
  end)
end

local function serve(client)
  local request = ""
  client:read_start(function(_, data)
    if not data then return close(client) end
    request = request .. data
    if not request:find("\r\n\r\n", 1, true) then return end
    local fault = fault_of(request)
    client:read_stop()
    if fault == "stall" then return wait(client, request) end
    if fault ~= "500" then return forward(client, request, fault == "cut" and HALF or nil) end
    client:write(ANSWER)
    client:read_start(function(_, more) -- to its end, or the answer may be lost in a reset
      if not more then close(client) end
    end)
  end)
end

local server = uv.new_tcp()
assert(server:bind("127.0.0.1", PORT))
assert(server:listen(128, function()
  local client = uv.new_tcp()
  server:accept(client)
  serve(client)
end))
uv.run()
