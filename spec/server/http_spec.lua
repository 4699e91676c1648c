-- What a hostile, broken or merely strict HTTP peer gets: the right status, a problem+json, and no row in the queue.
local json = require "dkjson"
local Server = require "spec.support.server"

local REQUEST <const> = {
  customerId = "c1", customerName = "Customer", customerEmail = "c1@example.org", configurationName = "main",
  manifestPath = "good.json", tier = "professional", architecture = "linux-x64", cloudProvider = "aws",
}
local MANIFEST <const> = {
  version = "1.0", name = "good", tier = "professional", architecture = "linux-x64",
  cloudTargets = { { provider = "aws" } }, build = { system = "command", commands = { "true" } },
}
local BODY_KILOBYTES <const> = 64

local server

setup(function()
  server = Server.start {
    config = { BuildQueue = {
      RequestHeadSeconds = 1, RequestBodySeconds = 1, MaxBodyKilobytes = BODY_KILOBYTES, MaxConnectionsPerPeer = 12,
    } },
    manifests = { ["good.json"] = MANIFEST },
  }
end)

teardown(function()
  if server then server:stop() end
end)

local function lines(...) return table.concat({ ... }, "\r\n") .. "\r\n\r\n" end
local function host() return "Host: " .. server.address end

-- A head for POST /builds with these header lines, and what follows it as it is.
local function post(headers, body)
  return lines("POST /builds HTTP/1.1", host(), "Content-Type: application/json", table.unpack(headers)) .. (body or "")
end
local function get(target, ...) return lines("GET " .. target .. " HTTP/1.1", host(), ...) end
local function chunked(body) return post({ "Transfer-Encoding: chunked" }, body) end
local function json_body(text) return post({ "Content-Length: " .. #text, "Connection: close" }, text) end

local function one_of(status, allowed, text)
  for _, code in ipairs(type(allowed) == "table" and allowed or { allowed }) do
    if code == status then return end
  end
  error(("got %s, wanted %s; the answer was:\n%s"):format(tostring(status),
    type(allowed) == "table" and table.concat(allowed, " or ") or allowed, text), 2)
end

-- Name, bytes (or a function that makes them), status (or the statuses that are right), and whether the request is well
-- framed all the same. After one that is not, the server closes the connection: where the next request would begin
-- can't be trusted.
local HOSTILE <const> = {
  { "no Host", lines "GET /healthz HTTP/1.1", 400 },
  { "two Hosts", function() return get("/healthz", host()) end, 400 },
  { "an empty Host", lines("GET /healthz HTTP/1.1", "Host:"), { 400, 403, 421 } },
  { "two different lengths", function() return post({ "Content-Length: 2", "Content-Length: 3" }, "{}x") end, 400 },
  { "two lengths in one header", function() return post({ "Content-Length: 2, 3" }, "{}x") end, 400 },
  { "a length with a sign", function() return post({ "Content-Length: +2" }, "{}") end, 400 },
  { "a negative length", function() return post({ "Content-Length: -1" }, "{}") end, 400 },
  { "a length in hex", function() return post({ "Content-Length: 0x2" }, "{}") end, 400 },
  { "a length that is no number", function() return post({ "Content-Length: 2a" }, "{}") end, 400 },
  { "an empty length", function() return post({ "Content-Length:" }, "{}") end, 400 },
  { "a length beyond 64 bits", function() return post { "Content-Length: 99999999999999999999" } end, { 400, 413 } },
  { "length and chunked", function()
    return post({ "Content-Length: 2", "Transfer-Encoding: chunked" }, "0\r\n\r\n")
  end, 400 },
  { "an unknown coding", function() return post({ "Transfer-Encoding: xchunked" }, "0\r\n\r\n") end, { 400, 501 } },
  { "chunked twice", function() return post({ "Transfer-Encoding: chunked, chunked" }, "0\r\n\r\n") end,
    { 400, 501 } },
  { "chunked not last", function() return post({ "Transfer-Encoding: chunked, gzip" }, "0\r\n\r\n") end,
    { 400, 501 } },
  { "two codings in two headers", function()
    return post({ "Transfer-Encoding: chunked", "Transfer-Encoding: identity" }, "0\r\n\r\n")
  end, { 400, 501 } },
  { "chunked to HTTP/1.0", function()
    return lines("POST /builds HTTP/1.0", host(), "Transfer-Encoding: chunked") .. "0\r\n\r\n"
  end, 400 },
  { "NUL in a value", function() return get("/healthz", "X-A: a\0b") end, 400 },
  { "NUL in the target", function() return get "/heal\0thz" end, 400 },
  { "CR in a value", function() return get("/healthz", "X-A: a\rb") end, 400 },
  { "space before the colon", function() return get("/healthz", "X-A : b") end, 400 },
  { "a name with a space", function() return get("/healthz", "X A: b") end, 400 },
  { "an empty name", function() return get("/healthz", ": b") end, 400 },
  { "a header without a colon", function() return get("/healthz", "X-A") end, 400 },
  { "a folded header", function() return get("/healthz", "X-A: a", " b") end, 400 },
  { "space before the first header", function() return "GET /healthz HTTP/1.1\r\n " .. host() .. "\r\n\r\n" end, 400 },
  { "two spaces in the request line", function() return lines("GET  /healthz HTTP/1.1", host()) end, 400 },
  { "no version", function() return lines("GET /healthz", host()) end, 400 },
  { "a small-letter version", function() return lines("GET /healthz http/1.1", host()) end, { 400, 505 } },
  { "HTTP/2.0", function() return lines("GET /healthz HTTP/2.0", host()) end, 505 },
  { "a TLS hello", "\22\3\1\2\0\1\0\1\252\3\3\r\n\r\n", 400 },
  { "a target without a slash", function() return get "healthz" end, 400, true },
  { "dots in the path", function() return get "/downloads/../../etc/passwd" end, { 400, 404 }, true },
  { "encoded dots", function() return get "/downloads/%2e%2e/%2e%2e/etc/passwd" end, { 400, 404 }, true },
  { "an encoded NUL", function() return get "/builds/%00" end, 400, true },
  { "a broken escape", function() return get "/builds/%zz" end, 400, true },
  { "bad UTF-8 in the path", function() return get "/builds/%ff%fe" end, { 400, 404 }, true },
  { "a long target", function() return get("/" .. ("a"):rep(100000)) end, 414 },
  { "a long header", function() return get("/healthz", "X-A: " .. ("a"):rep(200000)) end, 431 },
  { "many headers", function()
    local all = {}
    for i = 1, 2000 do all[i] = ("X-%d: y"):format(i) end
    return get("/healthz", table.unpack(all))
  end, 431 },
  { "a chunk size that is no number", function() return chunked "zz\r\n{}\r\n0\r\n\r\n" end, 400 },
  { "a negative chunk size", function() return chunked "-2\r\n{}\r\n0\r\n\r\n" end, 400 },
  { "a chunk size with 0x", function() return chunked "0x2\r\n{}\r\n0\r\n\r\n" end, 400 },
  { "an empty chunk size", function() return chunked "\r\n{}\r\n0\r\n\r\n" end, 400 },
  { "a chunk size beyond 64 bits", function() return chunked "fffffffffffffffff\r\n{}\r\n" end, { 400, 413 } },
  { "a chunk longer than it says", function() return chunked "1\r\n{}\r\n0\r\n\r\n" end, 400 },
  { "a body that is too large", function()
    return post { "Content-Length: " .. (BODY_KILOBYTES * 1024 + 1) }
  end, 413 },
  { "chunks that are too large together", function()
    local size = 8 * 1024
    local chunk = ("%x\r\n%s\r\n"):format(size, (" "):rep(size))
    return chunked(chunk:rep(BODY_KILOBYTES // 8 + 1))
  end, 413 },
  { "an unknown expectation", function() return post({ "Content-Length: 2", "Expect: wonders" }, "{}") end, 417 },
}

describe("a hostile request", function()
  for _, row in ipairs(HOSTILE) do
    local name, bytes, status, framed = row[1], row[2], row[3], row[4]
    it("gets its status, and nothing more: " .. name, function()
      -- What follows must not be taken for a second request.
      local smuggled = "GET /healthz HTTP/1.1\r\nHost: " .. server.address .. "\r\nConnection: close\r\n\r\n"
      local text = type(bytes) == "function" and bytes() or bytes
      local answer = server:raw(text .. smuggled, 8)
      local codes = Server.statuses(answer)
      one_of(codes[1], status, answer)
      if not framed then
        assert.equal(1, #codes, "a second request was seen:\n" .. answer)
        assert.is_nil(answer:find("no end", 1, true), "the connection stayed open:\n" .. answer)
      end
      assert.truthy(answer:lower():find("content-type: application/problem+json", 1, true), answer)
      local problem = json.decode(answer:match "\r\n\r\n(%b{})")
      assert.same({ "string", codes[1] }, { type(problem.detail), problem.status })
      assert.equal(problem.requestId, answer:match "\r\nX%-Request%-Id: ([%w-]+)\r\n")
      assert.equal("0", server:sql "select count(*) from build_queue")
    end)
  end

  it("keeps the request id that it had", function()
    local answer = server:raw(lines("POST /builds HTTP/1.1", host(), "Content-Type: application/json",
      "X-Request-Id: spec.413", "Transfer-Encoding: chunked") .. "fffffff\r\n", 8)
    assert.same({ 413 }, Server.statuses(answer))
    assert.equal("spec.413", json.decode(answer:match "\r\n\r\n(%b{})").requestId)
    assert.truthy(answer:find("\r\nX-Request-Id: spec.413\r\n", 1, true))
  end)
end)

-- The request is well formed HTTP, but not one that is served.
local REFUSED <const> = {
  { "another Host", function() return lines("GET /healthz HTTP/1.1", "Host: evil.example", "Connection: close") end,
    { 400, 403, 421 } },
  { "a rebound Host on a write", function()
    return lines("POST /builds HTTP/1.1", "Host: evil.example", "Content-Type: application/json", "Content-Length: 2",
      "Connection: close") .. "{}"
  end, { 400, 403, 421 } },
  { "a foreign Origin", function()
    return post({ "Origin: https://evil.example", "Content-Length: 2", "Connection: close" }, "{}")
  end, 403 },
  { "the Origin null", function() return post({ "Origin: null", "Content-Length: 2", "Connection: close" }, "{}") end,
    403 },
  { "no content type", function()
    return lines("POST /builds HTTP/1.1", host(), "Content-Length: 2", "Connection: close") .. "{}"
  end, 415 },
  { "a form", function()
    return lines("POST /builds HTTP/1.1", host(), "Content-Type: application/x-www-form-urlencoded",
      "Content-Length: 3", "Connection: close") .. "a=b"
  end, 415 },
  { "an unknown path", function() return get("/nope", "Connection: close") end, 404 },
  { "an unknown build", function()
    return get("/builds/00000000-0000-4000-8000-000000000000", "Connection: close")
  end, 404 },
  { "an id that is none", function() return get("/builds/17", "Connection: close") end, { 400, 404 } },
  { "not JSON", function() return json_body "{" end, 400 },
  { "no object", function() return json_body "[]" end, 400 },
  { "two documents", function() return json_body "{}{}" end, 400 },
  { "NaN", function() return json_body '{"priority": NaN}' end, 400 },
  { "a wrong type", function() return json_body '{"customerId": 17}' end, 400 },
  { "NUL in a string", function() return json_body '{"customerId": "a\\u0000b"}' end, 400 },
  { "bad UTF-8", function() return json_body '{"customerId": "\xff\xfe"}' end, 400 },
  { "half a surrogate", function() return json_body '{"customerId": "\\ud800"}' end, 400 },
  { "deep nesting", function() return json_body(("["):rep(10000) .. ("]"):rep(10000)) end, 400 },
  { "an empty body", function() return json_body "" end, 400 },
}

describe("a refused request", function()
  for _, row in ipairs(REFUSED) do
    local name, bytes, status = row[1], row[2], row[3]
    it("gets its status and leaves no row: " .. name, function()
      local answer = server:raw(bytes(), 8)
      one_of(Server.statuses(answer)[1], status, answer)
      assert.truthy(answer:lower():find("content-type: application/problem+json", 1, true), answer)
      assert.equal("0", server:sql "select count(*) from build_queue")
    end)
  end

  it("names the methods that a path has", function()
    local answer = server:request("DELETE", "/builds")
    assert.equal(405, answer.status)
    assert.truthy(answer.headers.allow:find "GET" and answer.headers.allow:find "POST", answer.headers.allow)
  end)
end)

-- Sends `first`, then one byte of `rest` a fifth of a second until the server says something; returns that.
local function trickle(first, rest)
  local connection = server:connect(0.2)
  connection:send(first)
  for at = 1, #rest do
    local whole, why, part = connection:receive "*a"
    if whole or why ~= "timeout" or part ~= "" then
      connection:close()
      return whole or part
    end
    if not connection:send(rest:sub(at, at)) then break end
  end
  connection:settimeout(5)
  local whole, _, part = connection:receive "*a"
  connection:close()
  return whole or part
end

describe("a slow sender", function()
  it("of a head gets 408 though it never pauses for long", function()
    local answer = trickle("GET /healthz HTTP/1.1\r\n", ("X-Slow: " .. ("y"):rep(60)))
    assert.same({ 408 }, Server.statuses(answer))
  end)

  it("of a body gets 408", function()
    local answer = trickle(post { "Content-Length: 100" }, (" "):rep(60))
    assert.same({ 408 }, Server.statuses(answer))
    assert.equal("0", server:sql "select count(*) from build_queue")
  end)

  it("of chunks gets 408", function()
    local answer = trickle(chunked "", ("1\r\n \r\n"):rep(20))
    assert.same({ 408 }, Server.statuses(answer))
  end)
end)

describe("a half-closed connection", function()
  it("gets the answer to what it has asked", function()
    assert.same({ 200 }, Server.statuses(server:raw(get "/healthz", 8, true)))
  end)

  it("in the middle of a body is closed and leaves no row", function()
    local answer = server:raw(post({ "Content-Length: 100" }, '{"customerId"'), 8, true)
    assert.is_nil(answer:find("no end", 1, true))
    local code = Server.statuses(answer)[1]
    assert.truthy(code == nil or code == 400 or code == 408, answer)
    assert.equal("0", server:sql "select count(*) from build_queue")
  end)
end)

describe("a correct peer", function()
  it("gets pipelined answers in order", function()
    local answer = server:raw(get "/healthz" .. get "/nope" .. get "/readyz" .. get("/nope", "Connection: close"), 8)
    assert.same({ 200, 404, 200, 404 }, Server.statuses(answer))
  end)

  it("may use the absolute form", function()
    local answer = server:raw(get(("http://%s/healthz"):format(server.address), "Connection: close"), 8)
    assert.same({ 200 }, Server.statuses(answer))
  end)

  it("may send empty lines before a request", function()
    assert.same({ 200 }, Server.statuses(server:raw("\r\n" .. get("/healthz", "Connection: close"), 8)))
  end)

  it("gets no body after HEAD, with the headers of GET", function()
    local answer = server:raw(lines("HEAD /healthz HTTP/1.1", host(), "Connection: close"), 8)
    local head, body = answer:match "^(.-)\r\n\r\n(.*)$"
    assert.equal("", body)
    local length = #server:get("/healthz").body
    assert.truthy(head:lower():find("content-length: " .. length, 1, true), head)
  end)

  it("is told to continue when it asks", function()
    local connection = server:connect()
    connection:send(post { "Content-Length: 2", "Expect: 100-continue", "Connection: close" })
    assert.equal("HTTP/1.1 100 Continue", (connection:receive "*l"))
    connection:send "{}"
    local rest = connection:receive "*a"
    connection:close()
    assert.same({ 400 }, Server.statuses(rest)) -- the fields that are required are missing
  end)

  it("gets its request id back, or one that is made", function()
    assert.equal("abc-123", server:get("/healthz", { ["X-Request-Id"] = "abc-123" }).headers["x-request-id"])
    assert.truthy(#server:get("/healthz").headers["x-request-id"] > 8)
  end)

  it("is served to the last of its connections, and refused beyond the limit", function()
    local open = {}
    for i = 1, 12 do
      local connection = server:connect()
      connection:send(get "/healthz")
      assert.equal("HTTP/1.1 200 OK", (connection:receive "*l"), "connection " .. i)
      open[i] = connection
    end
    local refused = server:raw(get("/healthz", "Connection: close"), 8)
    for _, connection in ipairs(open) do connection:close() end
    local code = Server.statuses(refused)[1]
    assert.truthy(code == nil or code == 503, refused)
    server:wait_for(function() return server:get("/healthz").status == 200 end, 5)
  end)

  -- Last: this one leaves a row.
  it("may use chunks with extensions and trailers", function()
    local body = require("dkjson").encode(REQUEST)
    local text = ("%x;name=value;q=\"a b\"\r\n%s\r\n%X\r\n%s\r\n0;last\r\nX-Trailer: t\r\n\r\n")
      :format(10, body:sub(1, 10), #body - 10, body:sub(11))
    local answer = server:raw(post({ "Transfer-Encoding: chunked", "Connection: close" }, text), 8)
    assert.same({ 202 }, Server.statuses(answer))
    assert.equal("1", server:sql "select count(*) from build_queue")
  end)
end)

describe("after all of it", function()
  it("the server still runs and has logged no crash", function()
    assert.is_true(server.child:alive())
    assert.equal(200, server:get("/healthz").status)
  end)
end)
