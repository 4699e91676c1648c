-- What a script of scripts/notifications has sent to a web server: its table, checked. core/io/webhook.h sends it.

local buildq = require "buildq"

local http = {}

local MAX_BODY <const> = 256 * 1024

local function is_secret(value) return type(value) == "table" and type(value.secret) == "string" end

--- The table with its body as text. Raises "scripts/notifications/x.lua: …".
---@param path string of the script
---@param message HttpMessage
---@return HttpMessage
function http.check(path, message)
  local function need(ok, what) if not ok then error(("%s: http.%s"):format(path, what), 0) end end
  need(type(message) == "table", "message must return {http = {url =, body =}}")
  for name in pairs(message) do
    need(name == "url" or name == "body" or name == "contentType" or name == "headers" or name == "sign",
      ("%s is not known; there are url, body, contentType, headers and sign"):format(tostring(name)))
  end
  local url, body = message.url, message.body
  need(is_secret(url) or type(url) == "string" and url:find "^https?://[^/]",
    "url must begin with https:// or be {secret = NAME}")
  if type(body) == "table" then body = buildq.json.encode(body) end
  need(type(body) == "string", "body must be a text or a table")
  need(#body <= MAX_BODY, ("body has %d bytes, %d is the most"):format(#body, MAX_BODY))
  need(message.contentType == nil or type(message.contentType) == "string", "contentType must be a text")
  need(message.headers == nil or type(message.headers) == "table", "headers must be a table")
  for name, value in pairs(message.headers or {}) do
    need(type(name) == "string" and (type(value) == "string" or is_secret(value)),
      ("headers.%s must be a text or {secret = NAME}"):format(tostring(name)))
  end
  local sign = message.sign
  need(sign == nil or type(sign) == "table" and type(sign.id) == "string" and type(sign.secrets) == "table"
    and #sign.secrets > 0, "sign must be {id =, secrets = {NAME}}")
  return { url = url, body = body, contentType = message.contentType, headers = message.headers, sign = sign }
end

return http
