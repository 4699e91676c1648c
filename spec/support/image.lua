-- Images of containers: bases made of this machine's own files, and what an image holds, started in a root of its own.
local json = require "dkjson"
local process = require "spec.support.process"
local socket = require "socket"

local image = {}

--- An OCI layout with one image that anybody may read, for BaseImages.
---@param layout string
---@param options {architecture: string, root?: string} OCI's name of it; a directory that becomes the image's /
---@return string layout
function image.base(layout, options)
  process.check({ "sh", "-ec", [[
    umoci init --layout "$1"
    umoci new --image "$1:base"
    umoci config --image "$1:base" --os linux --architecture "$2"
    [ -z "$3" ] || umoci insert --rootless --image "$1:base" "$3" /
    umoci gc --layout "$1"
    chmod -R a+rX "$1"
  ]], "sh", layout, options.architecture, options.root or "" }, { seconds = 120 })
  return layout
end

--- Fills a directory with what the .NET runtime needs: this machine's, and the C libraries that it is linked with.
---@param root string
function image.fill_with_dotnet(root)
  process.check { "sh", "-ec", [[
    dotnet=$(dirname "$(readlink -f /usr/bin/dotnet)")
    mkdir -p "$1/usr/bin" "$1/usr/share/dotnet" "$1/tmp" "$1/proc"
    cp -r "$dotnet/dotnet" "$dotnet/host" "$dotnet/shared" "$1/usr/share/dotnet"
    ln -s ../share/dotnet/dotnet "$1/usr/bin/dotnet"
    find "$dotnet/dotnet" "$dotnet/host" "$dotnet/shared" -type f '(' -name '*.so' -o -name dotnet ')' \
      -exec ldd {} + | grep -o '/[^ ():]*' | grep -vF "$dotnet" | sort -u | while read -r library; do
      mkdir -p "$1$(dirname "$library")"
      cp -L "$library" "$1$library"
    done
  ]], "sh", root }
end

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return math.tointeger(tonumber(port))
end

-- Starts a server and asks for /healthz until it says "ok".
local function answers(argv, port, options)
  local child = process.spawn(argv, options)
  local ok, failure = pcall(process.wait_for, function()
    if not child:alive() then
      process.give_up(("it ended with %d: %s"):format(child.code, child.output .. child.errors))
    end
    local client = socket.connect("127.0.0.1", port)
    if not client then return false end
    client:send "GET /healthz HTTP/1.0\r\n\r\n"
    return (client:receive "*a" or ""):find "ok$" ~= nil
  end, 60, function() return "the server to answer: " .. child.output .. child.errors end)
  child:kill "sigkill"
  child:wait()
  assert(ok, failure)
end

--- A published server answers.
---@param argv string[]
---@param env? table<string, string>
function image.program_answers(argv, env)
  local port, all = free_port(), {}
  for name, value in pairs(env or { PATH = os.getenv "PATH", HOME = os.getenv "HOME" }) do all[name] = value end
  all.ASPNETCORE_HTTP_PORTS = tostring(port)
  answers(argv, port, { env = all })
end

-- The first process of a container: it gives the root what a container's has, and stays who it is, since to become
-- another user would undo --kill-child.
local FIRST <const> = [[
  root=$1
  shift
  mkdir -p "$root/proc" "$root/dev"
  mount -t proc proc "$root/proc"
  for device in null zero random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  "$@" &
  wait
]]

--- What an image says is started, from the image's own root and as the user that it names, answers.
---@param layout string "DIRECTORY:NAME" of an OCI layout
---@return string root where its files are
function image.answers(layout)
  local bundle = process.directory() .. "/bundle"
  process.check({ "umoci", "unpack", "--rootless", "--image", layout, bundle }, { seconds = 120 })
  local root, port = bundle .. "/rootfs", free_port()
  local run = assert(json.decode(process.read(bundle .. "/config.json"))).process
  local env = { PORT = tostring(port) }
  for _, setting in ipairs(run.env) do
    local name, value = setting:match "^(.-)=(.*)$"
    env[name] = name == "ASPNETCORE_HTTP_PORTS" and tostring(port) or value
  end
  local argv = { "/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child" }
  local function add(...) table.move({ ... }, 1, select("#", ...), #argv + 1, argv) end
  if not process.is_root then add("--user", "--map-root-user") end
  add("/bin/sh", "-ec", FIRST, "sh", root, "/usr/sbin/chroot")
  if process.is_root then add(("--userspec=%d:%d"):format(run.user.uid, run.user.gid)) end
  add(root, table.unpack(run.args))
  answers(argv, port, { env = env })
  return root
end

return image
