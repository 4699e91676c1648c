-- A web server for what a build and its notifications send: everything is answered with 200.
local uv = require "luv"

local receiver = {}

local ANSWER <const> = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"

local function serve(connection)
  local text = ""
  connection:read_start(function(reason, bytes)
    if reason or not bytes then
      if not connection:is_closing() then connection:close() end
      return
    end
    text = text .. bytes
    while true do
      local head, rest = text:match "^(.-\r\n\r\n)(.*)$"
      local length = head and tonumber(head:lower():match "\ncontent%-length: (%d+)" or 0)
      if not head or #rest < length then return end
      text = rest:sub(length + 1)
      connection:write(ANSWER)
    end
  end)
end

--- Starts one over the default luv loop.
---@return string address "127.0.0.1:34567"
function receiver.start()
  local tcp = uv.new_tcp()
  assert(tcp:bind("127.0.0.1", 0))
  assert(tcp:listen(64, function()
    local connection = uv.new_tcp()
    tcp:accept(connection)
    serve(connection)
  end))
  return "127.0.0.1:" .. tcp:getsockname().port
end

return receiver
