-- lua5.4 spec/support/proxy.lua SOCKET PORT: takes connections on a port of loopback (0: a free one, printed) and
-- passes bytes on to a unix socket and back. A process of its own: SIGSTOP makes it a network that hangs without
-- closing, and its death one that is cut.
local uv = require "luv"

local function pass(from, to)
  from:read_start(function(_, data)
    if data then
      if not to:is_closing() then to:write(data) end
      return
    end
    for _, each in ipairs { from, to } do
      if not each:is_closing() then each:close() end
    end
  end)
end

local server = uv.new_tcp()
assert(server:bind("127.0.0.1", tonumber(arg[2]), { reuseaddr = true }))
assert(server:listen(128, function()
  local client, target = uv.new_tcp(), uv.new_pipe(false)
  server:accept(client)
  target:connect(arg[1], function(fault)
    if fault then
      client:close()
      return target:close()
    end
    pass(client, target)
    pass(target, client)
  end)
end))
print(server:getsockname().port)
io.stdout:flush()
uv.run()
