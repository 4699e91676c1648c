-- nginx on core 0 whose Lua module (LuaJIT) answers a constant at /constant: what our routes are measured beside.
local socket = require "socket"
local process = require "spec.support.process"
local support = require "tests.bench.support"

local nginx = {}

local MODULES <const> = "/usr/lib/nginx/modules/"

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

--- Nothing when nginx or its Lua module is not installed.
---@return Child|nil
---@return string address
function nginx.start()
  if not support.has "nginx" or process.run({ "test", "-e", MODULES .. "ngx_http_lua_module.so" }).code ~= 0 then
    return nil, ""
  end
  local directory, port = process.directory(), free_port()
  process.write(directory .. "/nginx.conf", ([[
    load_module %sndk_http_module.so;
    load_module %sngx_http_lua_module.so;
    daemon off; master_process off;
    pid %s/pid; error_log %s/error.log;
    events { worker_connections 1024; }
    http {
      access_log off; keepalive_requests 1000000000;
      server {
        listen 127.0.0.1:%d;
        location /constant { default_type text/plain; content_by_lua_block { ngx.print("hello\n") } }
      }
    }
  ]]):format(MODULES, MODULES, directory, directory, port))
  local child = process.spawn { "taskset", "-c", "0", "/usr/sbin/nginx", "-p", directory, "-c",
    directory .. "/nginx.conf" }
  process.wait_for(function()
    local connection = socket.connect("127.0.0.1", port)
    return connection and connection:close()
  end, 10, "nginx")
  return child, ("127.0.0.1:%d"):format(port)
end

return nginx
