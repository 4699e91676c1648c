-- What a build talks to outside: git repositories over https (git http-backend behind nginx) and a registry of images
-- (docker-registry behind the same nginx), with a certificate authority of their own.
--
--   local forge = Forge.start()
--   local commit = forge:repository("public/product", "spec/fixtures/product")     -- forge.git .. "public/product.git"
--   forge:fault "500"                                                             -- until the next; nil: none
--
-- Repositories below private/ and the registry forge.closed_registry want the user "ci" and Forge.TOKEN; what is below
-- moved/ leads to private/ under another host's name.
local uv = require "luv"
local process = require "spec.support.process"
local socket = require "socket"

local Forge = {}
Forge.__index = Forge

Forge.TOKEN = "s3cr3t-t0ken-of-the-forge"

local NGINX <const> = [[
daemon off;
pid @/nginx.pid;
error_log @/nginx-error.log;
worker_processes 1;
@user
events { worker_connections 256; }
http {
  access_log @/access.log;
  client_max_body_size 0;
  client_body_temp_path @/tmp; proxy_temp_path @/tmp; fastcgi_temp_path @/tmp;
  uwsgi_temp_path @/tmp; scgi_temp_path @/tmp;
  ssl_certificate @/server.pem;
  ssl_certificate_key @/server.key;
  map $uri $realm { default off; ~^/private/ "forge"; }
  server {
    listen 127.0.0.1:@git ssl;
    auth_basic $realm;
    auth_basic_user_file @/users;
    location ~ ^/moved/(.*)$ { return 302 https://127.0.0.1:@git/private/$1$is_args$args; } # to another host
    location / {
      if (-f @/gone) { return 444; }
      fastcgi_pass unix:@/fcgi.sock;
      fastcgi_buffering off;
      fastcgi_param SCRIPT_FILENAME @/backend;
      fastcgi_param GIT_PROJECT_ROOT @/git;
      fastcgi_param GIT_HTTP_EXPORT_ALL 1;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param QUERY_STRING $args;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
      fastcgi_param GIT_PROTOCOL $http_git_protocol;
      fastcgi_param REMOTE_USER $remote_user;
      fastcgi_param HTTP_AUTHORIZATION ""; # a spec looks for it in the environment of all processes
    }
  }
  server {
    listen 127.0.0.1:@registry ssl;
    error_page 502 @cut;
    location @cut { return 444; }
    location / {
      set $to @plain;
      if (-f @/fault) { set $to @faulty; }
      proxy_pass http://127.0.0.1:$to;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Proto https;
      proxy_request_buffering off;
    }
  }
  server {
    listen 127.0.0.1:@closed ssl;
    auth_basic "forge";
    auth_basic_user_file @/users;
    location / {
      set $to @plain;
      if (-f @/fault) { set $to @faulty; }
      proxy_pass http://127.0.0.1:$to;
      proxy_set_header Host $http_host;
      proxy_request_buffering off;
    }
  }
}
]]

local HALF <const> = 200000 -- bytes of a large answer

-- git's own program, which stops in the middle of a longer answer while there is a file: `hang` holds the number of
-- bytes and waits until it is gone, `vanish` takes the repository in it and nginx's worker away.
local BACKEND <const> = [[#!/bin/sh
git=/usr/lib/git-core/git-http-backend
{ [ -e @/hang ] || [ -e @/vanish ]; } || exec $git
most=$(cat @/hang 2>/dev/null || echo @half)
answer=@/tmp/answer.$$
$git >$answer
head -c "$most" $answer
if [ "$(stat -c %s $answer)" -gt "$most" ]; then
  if [ -e @/vanish ]; then
    mv "@/git$(cat @/vanish)" @/tmp/vanished
    nginx=$(cat @/nginx.pid)
    kill -s KILL $(cat /proc/$nginx/task/$nginx/children)
  fi
  : >@/hanging
  while [ -e @/hang ]; do sleep 0.05; done
  tail -c +$((most + 1)) $answer
fi
rm $answer
]]

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return math.tointeger(tonumber(port))
end

local function certificates(directory)
  process.check { "sh", "-ec", [[
    cd "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -days 2 \
      -subj "/CN=spec authority" -addext basicConstraints=critical,CA:TRUE
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr \
      -subj "/CN=localhost"
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >server.ext
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 \
      -extfile server.ext
    printf 'ci:%s\n' "$(openssl passwd -apr1 "$2")" >users
  ]], "sh", directory, Forge.TOKEN }
end

local function replace(text, values)
  return (text:gsub("@(%l+)", values):gsub("@/", values.directory .. "/"))
end

---@param options? {registry_bytes?: integer} what a file of the registry may have: it is "full" beyond
function Forge.start(options)
  local directory = process.directory()
  local self = setmetatable({ directory = directory }, Forge)
  for _, name in ipairs { "git", "tmp", "images" } do
    assert(uv.fs_mkdir(directory .. "/" .. name, tonumber("755", 8)))
  end
  certificates(directory)
  local ports = { git = free_port(), registry = free_port(), plain = free_port(), closed = free_port(),
    faulty = free_port() }
  process.write(directory .. "/nginx.conf", replace(NGINX, {
    directory = directory, git = tostring(ports.git), registry = tostring(ports.registry),
    faulty = tostring(ports.faulty), plain = tostring(ports.plain), closed = tostring(ports.closed),
    user = process.is_root and "user root;" or "",
  }))
  process.write(directory .. "/registry.yml", ("version: 0.1\nstorage: {filesystem: {rootdirectory: %s/images}}\n"
    .. "http: {addr: '127.0.0.1:%d', relativeurls: true}\nlog: {level: error}\n"):format(directory, ports.plain))
  process.write(directory .. "/backend", replace(BACKEND, { directory = directory, half = tostring(HALF) }))
  assert(uv.fs_chmod(directory .. "/backend", tonumber("755", 8)))
  -- What a leak would show: the token, or a header with it.
  self.secrets = { Forge.TOKEN, process.check({ "base64", "-w0" }, { stdin = "ci:" .. Forge.TOKEN }):sub(1, 30) }
  self.certificate = directory .. "/ca.pem"
  self.git = ("https://localhost:%d/"):format(ports.git)
  self.git_host = ("localhost:%d"):format(ports.git)
  self.registry = ("localhost:%d"):format(ports.registry)
  self.closed_registry = ("localhost:%d"):format(ports.closed)
  local to = { to = directory .. "/forge.log" }
  process.spawn({ "fcgiwrap", "-s", "unix:" .. directory .. "/fcgi.sock", "-f", "-c", "4" }, to)
  local registry = { "docker-registry", "serve", directory .. "/registry.yml" }
  if options and options.registry_bytes then
    registry = { "prlimit", "--fsize=" .. options.registry_bytes, table.unpack(registry) }
  end
  process.spawn(registry, to)
  process.spawn({ "lua5.4", "spec/support/faulty.lua", tostring(ports.faulty), tostring(ports.plain),
    directory .. "/fault" }, to)
  process.spawn({ "/usr/sbin/nginx", "-c", directory .. "/nginx.conf" }, to)
  for _, port in pairs(ports) do
    process.wait_for(function()
      local client = socket.connect("127.0.0.1", port)
      if client then client:close() end
      return client
    end, 20, function() return "the forge to listen: " .. process.read(to.to) end)
  end
  process.wait_for(function() return uv.fs_stat(directory .. "/fcgi.sock") end, 10, "fcgiwrap")
  return self
end

local AUTHOR <const> = { "-c", "user.name=Spec", "-c", "user.email=spec@example.org" }

local function git(directory, ...)
  return process.check { "git", "-C", directory, table.unpack(table.move({ ... }, 1, select("#", ...), #AUTHOR + 1,
    { table.unpack(AUTHOR) })) }
end

--- A repository with the files of a directory in one commit, or the next commit when it is there already. Returns the
--- commit.
---@param name string "public/product"
---@param from string
---@param change? fun(tree: string) what else is done to the tree before the commit
function Forge:repository(name, from, change)
  local tree, bare = ("%s/trees/%s"):format(self.directory, name), ("%s/git/%s.git"):format(self.directory, name)
  if not uv.fs_stat(tree) then
    process.check { "mkdir", "-p", tree, bare }
    process.check { "git", "init", "--quiet", "--bare", "--initial-branch=main", bare }
    process.check { "git", "init", "--quiet", "--initial-branch=main", tree }
  end
  process.check { "cp", "-r", from .. "/.", tree }
  if change then change(tree) end
  git(tree, "add", "--all")
  git(tree, "commit", "--quiet", "--allow-empty", "--message=spec")
  git(tree, "push", "--quiet", bare, "main", "--tags")
  return git(tree, "rev-parse", "HEAD")
end

--- The same commits under another name.
function Forge:mirror(name, other)
  local bare = ("%s/git/%s.git"):format(self.directory, other)
  process.check { "git", "clone", "--quiet", "--bare", ("%s/git/%s.git"):format(self.directory, name), bare }
end

--- Makes another repository a submodule of a tree, to be called by the `change` of repository().
---@param tree string
---@param path string where it is in the tree
---@param url string as .gitmodules has it
---@param commit string
function Forge.submodule(tree, path, url, commit)
  git(tree, "config", "--file", ".gitmodules", ("submodule.%s.path"):format(path), path)
  git(tree, "config", "--file", ".gitmodules", ("submodule.%s.url"):format(path), url)
  git(tree, "update-index", "--add", "--cacheinfo", ("160000,%s,%s"):format(commit, path))
  process.check { "mkdir", "-p", tree .. "/" .. path } -- or `git add --all` takes it away again
end

--- An order for the repository public/daemon.
---@param more? table laid over the manifest
---@param cloud? table laid over its target
---@return table body of POST /builds
function Forge:order(more, cloud)
  local manifest = {
    name = "daemon", architecture = "linux-x64", tier = "pro",
    source = { repository = self.git .. "public/daemon.git", ref = "main" }, build = { system = "make" },
    cloudTargets = { { provider = "aws", region = "eu-west-1" } },
  }
  for name, value in pairs(cloud or {}) do manifest.cloudTargets[1][name] = value end
  for name, value in pairs(more or {}) do manifest[name] = value end
  return { pipeline = "honua-server", manifest = manifest }
end

--- Runs git in a repository's work tree.
function Forge:run_git(name, ...) return git(("%s/trees/%s"):format(self.directory, name), ...) end

--- What goes wrong from now on, until the next call; with nil, nothing. Of git: "gone" (nobody is answered), "hang" (an
--- answer stops after `detail` bytes), "vanish" (a pack stops half-way, the connection is cut, and the repository
--- `detail` is no more). Of what is pushed: "500", "third", "cut" and "stall" (spec/support/faulty.lua).
---@param kind? string
---@param detail? string|integer
function Forge:fault(kind, detail)
  for _, name in ipairs { "gone", "hang", "vanish", "hanging", "fault", "fault.reached" } do
    uv.fs_unlink(self.directory .. "/" .. name)
  end
  if kind == "gone" or kind == "hang" then
    process.write(("%s/%s"):format(self.directory, kind), ("%s\n"):format(detail or HALF))
  elseif kind == "vanish" then
    process.write(self.directory .. "/vanish", ("/%s.git\n"):format(detail))
  elseif kind then
    self.faults = (self.faults or 0) + 1
    process.write(self.directory .. "/fault", ("%s %d\n"):format(kind, self.faults))
  end
end

--- Whether something waits because of a fault: git's answer, or what is pushed.
function Forge:hangs()
  return uv.fs_stat(self.directory .. "/hanging") ~= nil or uv.fs_stat(self.directory .. "/fault.reached") ~= nil
end

--- The tags of an image, or nil when the registry knows none of that name.
---@param name string "public/product"
---@return string[]?
function Forge:tags(name)
  local answer = process.check { "curl", "-s", "--cacert", self.certificate,
    ("https://%s/v2/%s/tags/list"):format(self.registry, name) }
  local decoded = require("dkjson").decode(answer)
  return decoded and decoded.tags or nil
end

--- skopeo with the forge's certificate; its output.
function Forge:skopeo(...)
  local env = uv.os_environ()
  env.SSL_CERT_FILE = self.certificate
  return process.check({ "skopeo", "--insecure-policy", ... }, { env = env })
end

--- The requests that nginx has answered, a line each.
function Forge:requests() return process.read(self.directory .. "/access.log") end

--- The options that a server needs to reach it.
function Forge:config(more)
  local config = { TrustedCertificates = self.certificate }
  for name, value in pairs(more or {}) do config[name] = value end
  return config
end

return Forge
