-- Mail servers for specs: a scripted one that misbehaves as it is told (python3-aiosmtpd), and Debian's postfix.
--
--   local sink = smtp.sink { user = "u", password = "p" }
--   local server = Server.start { config = { Email = sink:config() } }
--   sink:plan { { stage = "rcpt", action = "550 5.1.1 no such user", recipient = "bad@" } }
--   local mails = sink:mails()            -- {headers=, to=, text=, html=, recipients=, login=, tls=, …}, as they came
--
-- All of it lies in temporary directories, listens on 127.0.0.1 and ends with the spec file.
local uv = require "luv"
local json = require "dkjson"
local process = require "spec.support.process"

local smtp = {}

local PYTHON <const> = "/usr/bin/python3"
local HERE <const> = uv.cwd() .. "/spec/support/"

local function openssl(...) process.check { "openssl", ... } end

--- A certificate authority and a certificate of it, made for these names.
---@param names? string "IP:127.0.0.1,DNS:localhost"
---@return {ca: string, cert: string, key: string, directory: string}
function smtp.certificate(names)
  local directory = process.directory()
  local function path(name) return directory .. "/" .. name end
  openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Spec CA", "-keyout",
    path "ca.key", "-out", path "ca.pem")
  openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=mail", "-keyout", path "key.pem", "-out",
    path "request.pem")
  process.write(path "names", "subjectAltName=" .. (names or "IP:127.0.0.1,DNS:localhost") .. "\n")
  openssl("x509", "-req", "-in", path "request.pem", "-CA", path "ca.pem", "-CAkey", path "ca.key", "-CAcreateserial",
    "-days", "2", "-extfile", path "names", "-out", path "cert.pem")
  process.check { "chmod", "-R", "a+rX", directory }
  return { ca = path "ca.pem", cert = path "cert.pem", key = path "key.pem", directory = directory }
end

---@class Sink
---@field port integer
local Sink = {}
Sink.__index = Sink

--- Starts one. Options are those of smtp_sink.py.
---@param options? table
---@return Sink
function smtp.sink(options)
  local self = setmetatable({ directory = process.directory(), options = options or {} }, Sink)
  process.check { "mkdir", "-p", self.directory .. "/mails" }
  self:launch()
  return self
end

function Sink:launch()
  os.remove(self.directory .. "/port")
  local text = next(self.options) and json.encode(self.options) or "{}"
  self.child = process.spawn({ PYTHON, HERE .. "smtp_sink.py", self.directory, text },
    { to = self.directory .. "/log" })
  self.port = process.wait_for(function()
    if not self.child:alive() then process.give_up(process.read(self.directory .. "/log")) end
    return tonumber(process.read(self.directory .. "/port"))
  end, 30, "the mail server")
end

--- What it does wrong from now on; an empty list for nothing.
---@param rules table[]
function Sink:plan(rules)
  local path = self.directory .. "/plan.json"
  process.write(path .. ".new", json.encode(#rules > 0 and rules or setmetatable({}, { __jsontype = "array" })))
  assert(uv.fs_rename(path .. ".new", path))
end

--- Until `release`, actions "wait" wait; whether one does.
function Sink:hold() process.write(self.directory .. "/wait", "") end
function Sink:waits() return uv.fs_stat(self.directory .. "/waits") ~= nil end
function Sink:release() assert(os.remove(self.directory .. "/wait")) end

--- All mails it has kept, in the order in which they came.
---@return table[]
function Sink:mails()
  local names, list = {}, {}
  for name in uv.fs_scandir_next, assert(uv.fs_scandir(self.directory .. "/mails")) do
    if name:find "%.json$" then names[#names + 1] = name end
  end
  table.sort(names)
  for index, name in ipairs(names) do
    list[index] = assert(json.decode(process.read(self.directory .. "/mails/" .. name), 1, nil))
  end
  return list
end

--- How many that are.
---@return integer
function Sink:count()
  local count = 0
  for name in uv.fs_scandir_next, assert(uv.fs_scandir(self.directory .. "/mails")) do
    if name:find "%.json$" then count = count + 1 end
  end
  return count
end

--- Section Email of a server that sends here, with `more` laid over it.
---@param more? table
---@return table
function Sink:config(more)
  local options = self.options
  local section = {
    SmtpServer = "127.0.0.1", SmtpPort = self.port, UseSsl = options.cert ~= nil, FromAddress = "builds@honua.example",
    SmtpUsername = options.user, SmtpPassword = options.password, CaFile = options.ca,
  }
  for name, value in pairs(more or {}) do section[name] = value end
  return section
end

function Sink:stop()
  self.child:kill "sigkill"
  self.child:wait()
end

--- What a mail in a file says.
---@param paths string[]
---@return table[]
function smtp.read(paths)
  return json.decode(process.check { PYTHON, HERE .. "mail.py", table.unpack(paths) }, 1, nil)
end

return smtp
