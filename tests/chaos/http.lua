-- Requests that nobody waits for: the answer, or its absence, comes to a function. A server that was stopped or killed
-- holds nothing up that way.
local uv = require "luv"

local http = {}

---@class ChaosAnswer
---@field status integer
---@field head string the lines before the body
---@field body string as it came: with the frames of its chunks, if it has any

--- One request on a connection of its own, over the default luv loop. `done` is called once, with nil and a reason when
--- no whole answer came within `seconds`: whether the server did what was asked is unknown then.
---@param address string "127.0.0.1:34567"
---@param method string
---@param path string
---@param options {body: string?, headers: table<string, string>?, seconds: number?}
---@param done fun(answer: ChaosAnswer?, reason: string?)
function http.send(address, method, path, options, done)
  local host, port = address:match "^(.*):(%d+)$"
  local tcp, timer, chunks = uv.new_tcp(), uv.new_timer(), {}
  local function finish(answer, reason)
    if not tcp then return end
    tcp:close()
    timer:close()
    tcp = nil
    done(answer, reason)
  end
  local function read(reason, bytes)
    if bytes then
      chunks[#chunks + 1] = bytes
      return
    end
    local head, body = table.concat(chunks):match "^(HTTP/1%.1 .-\r\n\r\n)(.*)$"
    local length = head and tonumber(head:lower():match "\ncontent%-length: (%d+)")
    if not head or (length and length ~= #body) then return finish(nil, reason or "the connection ended early") end
    finish { status = tonumber(head:match "^HTTP/1%.1 (%d+)"), head = head, body = body }
  end
  local lines = { ("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close"):format(method, path, address) }
  for name, value in pairs(options.headers or {}) do lines[#lines + 1] = name .. ": " .. value end
  if options.body then
    lines[#lines + 1] = "Content-Type: application/json\r\nContent-Length: " .. #options.body
  end
  local request = table.concat(lines, "\r\n") .. "\r\n\r\n" .. (options.body or "")
  timer:start(math.floor((options.seconds or 5) * 1000), 0, function() finish(nil, "no answer in time") end)
  tcp:connect(host, tonumber(port), function(reason)
    if not tcp then return end
    if reason then return finish(nil, reason) end
    tcp:read_start(function(...) if tcp then read(...) end end)
    tcp:write(request)
  end)
end

return http
