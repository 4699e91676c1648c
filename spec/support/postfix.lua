-- Debian's postfix as a private instance: its own configuration, queue and certificate; it delivers to a Maildir.
--
--   local postfix = require("spec.support.postfix").start()
--   local server = Server.start { config = { Email = postfix:config() } }
--   local mails = postfix:mails()      -- as smtp.read gives them
--
-- postfix wants to be started by root; `available` is false for others. It ends with the spec file.
local uv = require "luv"
local socket = require "socket"
local process = require "spec.support.process"
local smtp = require "spec.support.smtp"

local postfix = { available = process.is_root }

local Postfix = {}
Postfix.__index = Postfix

local MAIN <const> = [[
compatibility_level = 3.6
queue_directory = %(directory)/queue
data_directory = %(directory)/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = %(directory)/maillog
maillog_file_prefixes = %(directory)
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = localhost
mydestination =
mynetworks =
alias_maps =
alias_database =
virtual_mailbox_domains = static:all
virtual_mailbox_maps = static:inbox/
virtual_mailbox_base = %(directory)
virtual_minimum_uid = 1
virtual_uid_maps = static:%(uid)
virtual_gid_maps = static:%(gid)
smtputf8_enable = yes
smtpd_tls_cert_file = %(cert)
smtpd_tls_key_file = %(key)
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = %(directory)/sasl
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = check_recipient_access inline:{ {refused@example.org = 550 5.1.1 no such user} }, permit
smtpd_client_connection_count_limit = 0
]]

local MASTER <const> = [[
127.0.0.1:%(port) inet n - n - - smtpd
%(second):465 inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
]]

local function free_port()
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  server:close()
  return tonumber(port)
end

---@param options? {discard: boolean?} discard: mails are thrown away
function postfix.start(options)
  local discard = options and options.discard
  local self = setmetatable({ directory = process.directory(), user = "builds",
    password = discard and "secret-enough" or "geheim & länger" }, Postfix)
  -- Port 465 of an address that nobody else takes.
  self.second = ("127.%d.%d.2"):format(uv.os_getpid() >> 8 & 127 | 64, uv.os_getpid() & 255)
  self.certificate = smtp.certificate("DNS:localhost,IP:127.0.0.1,IP:" .. self.second)
  self.port = free_port()
  local nobody = process.ordinary_user()
  local values = { directory = self.directory, cert = self.certificate.cert, key = self.certificate.key,
    port = self.port, second = self.second, uid = nobody.uid, gid = nobody.gid }
  local function filled(text) return (text:gsub("%%%((%w+)%)", function(name) return tostring(values[name]) end)) end
  local function path(name) return self.directory .. "/" .. name end
  for _, name in ipairs { "queue", "data", "sasl", "inbox" } do assert(uv.fs_mkdir(path(name), tonumber("755", 8))) end
  process.write(path "main.cf", filled(MAIN) .. (discard and "virtual_transport = discard:\n" or ""))
  process.write(path "master.cf", filled(MASTER))
  process.write(path "sasl/smtpd.conf", ("pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: %s\n"
    .. "mech_list: PLAIN LOGIN\n"):format(path "sasldb2"))
  assert(process.run({ "saslpasswd2", "-c", "-p", "-f", path "sasldb2", "-u", "localhost", self.user },
    { stdin = self.password }).code == 0)
  process.check { "chown", "postfix:", path "data", path "sasldb2" }
  process.check { "chown", "nobody:", path "inbox" }
  local started = process.run { "postfix", "-v", "-c", self.directory, "start" }
  if started.code ~= 0 then error("postfix: " .. started.errors .. started.output .. process.read(path "maillog")) end
  process.at_end(function() process.run { "postfix", "-c", self.directory, "stop" } end)
  process.wait_for(function()
    local connection = socket.connect("127.0.0.1", self.port)
    if connection then connection:close() end
    return connection
  end, 20, function() return "postfix:\n" .. process.read(path "maillog") end)
  return self
end

--- Section Email of a server that sends here, with `more` laid over it.
function Postfix:config(more)
  local section = {
    SmtpServer = "localhost", SmtpPort = self.port, UseSsl = true, CaFile = self.certificate.ca,
    SmtpUsername = self.user .. "@localhost", SmtpPassword = self.password, FromAddress = "builds@honua.example",
  }
  for name, value in pairs(more or {}) do section[name] = value end
  return section
end

--- What the Maildir has, as files: each is one delivery.
---@return table[]
function Postfix:mails()
  local paths = {}
  local list = uv.fs_scandir(self.directory .. "/inbox/new")
  for name in uv.fs_scandir_next, list do paths[#paths + 1] = self.directory .. "/inbox/new/" .. name end
  table.sort(paths)
  return #paths > 0 and smtp.read(paths) or {}
end

---@return integer
function Postfix:count()
  local count = 0
  local list = uv.fs_scandir(self.directory .. "/inbox/new")
  while list and uv.fs_scandir_next(list) do count = count + 1 end
  return count
end

function Postfix:log() return process.read(self.directory .. "/maillog") end

return postfix
