-- What the groups of this room share: percentiles, a client that keeps its connection, wrk.
local socket = require "socket"
local process = require "spec.support.process"

local support = {}

--- Sorts `values`; the share is 0.5 for the median, 0.99 for p99.
---@param values number[]
---@param share number
---@return number
function support.percentile(values, share)
  table.sort(values)
  return values[math.min(#values, math.floor(share * #values) + 1)]
end

---@param values number[]
---@return number
function support.median(values) return support.percentile(values, 0.5) end

--- A client whose requests go one after the other over one connection: get(path, method) returns status, body, seconds.
---@param address string "127.0.0.1:34567"
---@return fun(path: string, method?: "GET"|"POST"): integer, string, number
function support.client(address)
  local host, port = address:match "^(.*):(%d+)$"
  local connection = assert(socket.connect(host, tonumber(port)))
  connection:setoption("tcp-nodelay", true)
  connection:settimeout(30)
  return function(path, method)
    local began = socket.gettime()
    assert(connection:send(("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n")
      :format(method or "GET", path, address)))
    local status = assert(connection:receive "*l"):match "^HTTP/1.1 (%d+)"
    local length = 0
    while true do
      local line = assert(connection:receive "*l")
      if line == "" then break end
      length = tonumber(line:match "^[Cc]ontent%-[Ll]ength: (%d+)") or length
    end
    local body = length > 0 and assert(connection:receive(length)) or ""
    return tonumber(status), body, socket.gettime() - began
  end
end

--- One wrk on a core of its own.
---@param url string
---@param seconds integer
---@return number rate requests a second
---@return integer requests all of them
function support.wrk(url, seconds)
  local argv = { "taskset", "-c", "1", "wrk", "-t1", "-c64", ("-d%ds"):format(seconds), url }
  local output = process.check(argv)
  assert(not output:find "Non%-2xx" and not output:find "Socket errors", output)
  return assert(tonumber(output:match "Requests/sec:%s+([%d.]+)"), output), tonumber(output:match "(%d+) requests in")
end

--- Whether a program is on the PATH or in /usr/sbin.
---@param name string
---@return boolean
function support.has(name) return process.run({ "sh", "-c", "PATH=$PATH:/usr/sbin command -v " .. name }).code == 0 end

return support
