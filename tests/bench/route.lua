-- A route that answers a constant, beside nginx whose Lua module (LuaJIT) answers the same. Each server alone on core
-- 0, wrk on core 1, in turns; what counts is the median of the rounds' ratios.
local socket = require "socket"
local Server = require "spec.support.server"
local process = require "spec.support.process"
local support = require "tests.bench.support"

local ROUNDS <const>, SECONDS <const> = 9, 1
local MODULES <const> = "/usr/lib/nginx/modules/"

-- Seconds of CPU time that a process has used.
local function cpu_seconds(pid)
  local text, fields = process.read(("/proc/%d/stat"):format(pid)), {}
  for field in text:match "%) (.*)":gmatch "%S+" do fields[#fields + 1] = field end
  return (tonumber(fields[12]) + tonumber(fields[13])) / 100
end

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

local function start_nginx()
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

return function(report)
  if not support.has "nginx" or not process.run({ "test", "-e", MODULES .. "ngx_http_lua_module.so" }).code == 0 then
    return "nginx with its Lua module is not installed"
  end
  if not support.has "wrk" then return "wrk is not installed" end
  local server = Server.start {
    config = { BuildQueue = { MaxConnectionsPerPeer = 400 } },
    scripts = { ["routes/constant.lua"] = [[
      return { method = "GET", path = "/constant", handle = function() return { body = "hello\n" } end }
    ]] },
  }
  process.check { "taskset", "-a", "-p", "-c", "0", tostring(server.child.pid) }
  local nginx, address = start_nginx()
  local sides = {
    { url = ("http://%s/constant"):format(server.address), pid = server.child.pid, rates = {}, requests = 0 },
    { url = ("http://%s/constant"):format(address), pid = nginx.pid, rates = {}, requests = 0 },
  }
  for _, side in ipairs(sides) do
    support.wrk(side.url, 1) -- warm
    side.began = cpu_seconds(side.pid)
  end
  local ratios = {}
  for round = 1, ROUNDS do
    for _, side in ipairs(sides) do
      local requests
      side.rates[round], requests = support.wrk(side.url, SECONDS)
      side.requests = side.requests + requests
    end
    ratios[round] = sides[1].rates[round] / sides[2].rates[round]
  end
  for _, side in ipairs(sides) do side.cpu_us = (cpu_seconds(side.pid) - side.began) / side.requests * 1e6 end
  nginx:kill()
  nginx:wait()
  server:stop()
  report { group = "routes", name = "a constant", value = support.median(sides[1].rates), unit = "/s",
    beside = "nginx's Lua module", limit = support.median(sides[2].rates), ratio = support.median(ratios), aim = 0.9,
    better = "higher" }
  -- The same from the other side, which other programs on the machine disturb less.
  report { group = "routes", name = "CPU time of one", value = sides[1].cpu_us, unit = "µs",
    beside = "nginx's Lua module", limit = sides[2].cpu_us, ratio = sides[1].cpu_us / sides[2].cpu_us, aim = 1 / 0.9,
    better = "lower" }
end
