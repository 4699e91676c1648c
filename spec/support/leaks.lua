-- Looks for a secret everywhere that a build could have left it.
local builds = require "spec.support.builds"
local postgres = require "spec.support.postgres"
local process = require "spec.support.process"
local uv = require "luv"

local leaks = {}

--- The processes of this machine that have a text among their arguments or in their environment: "pid: arguments".
---@param word string
---@return string[]
function leaks.in_processes(word)
  local found = {}
  for entry in uv.fs_scandir_next, (assert(uv.fs_scandir "/proc")) do
    local place = "/proc/" .. entry
    if entry:find "^%d+$" and (process.read(place .. "/cmdline") .. "\n" .. process.read(place .. "/environ"))
      :find(word, 1, true) then
      found[#found + 1] = ("%s: %s"):format(entry, process.read(place .. "/cmdline"):gsub("\0", " "))
    end
  end
  return found
end

--- The files with a text: artifacts of a build, what the API says of it, the database, all that is below the server's
--- directory, and other places.
---@param server Server
---@param id string
---@param words string[]
---@param more {places: string[], except: string} a file called `except` may hold it
---@return string files, a line each
function leaks.in_build(server, id, words, more)
  local directory = process.directory()
  for _, artifact in ipairs(server:get(("/builds/%s/artifacts"):format(id)).json.artifacts) do
    process.write(directory .. "/" .. artifact.name, server:get(("/downloads/%s/%s"):format(id, artifact.name)).body)
  end
  process.check { "sh", "-ec", [[
    for archive in "$1"/*.tar.zst; do
      mkdir "$archive.files" && tar --zstd -xf "$archive" -C "$archive.files"
    done
  ]], "sh", directory }
  process.write(directory .. "/database", process.check { "pg_dump", "-h", postgres.directory(), "-U", "postgres",
    server.database })
  local api = { builds.log(server, id) }
  for _, path in ipairs { "", "/events", "/artifacts" } do
    api[#api + 1] = server:get(("/builds/%s%s"):format(id, path)).body
  end
  process.write(directory .. "/api", table.concat(api, "\n"))
  local found = {}
  for _, word in ipairs(words) do
    local grep = process.run { "grep", "-rlaF", "--exclude=" .. more.except, "-e", word, directory, server.directory,
      table.unpack(more.places) }
    assert(grep.code <= 1, grep.errors)
    found[#found + 1] = grep.output
  end
  return table.concat(found)
end

return leaks
