-- What a build has made: the list, and the files.

local buildq = require "buildq"
local problem = require "problem"
local reply = require "reply"

local TYPES <const> = {
  { "%.json$", "application/json" },
  { "%.tar%.zst$", "application/zstd" },
  { "%.tar%.gz$", "application/gzip" },
  { "SUMS$", "text/plain; charset=utf-8" },
  { "%.txt$", "text/plain; charset=utf-8" },
}

local function content_type(name)
  for _, entry in ipairs(TYPES) do
    if name:find(entry[1]) then return entry[2] end
  end
  return "application/octet-stream"
end

local function list(req)
  local found, failure = buildq.queue.artifacts(req.params.id)
  if not found then return problem.from(failure) end
  for _, artifact in ipairs(found.artifacts) do
    artifact.url = ("/downloads/%s/%s"):format(req.params.id:lower(), artifact.name)
  end
  return reply.json { attempt = found.attempt, artifacts = buildq.json.array(found.artifacts) }
end

local function download(req)
  local id, name = req.params.id, req.params.name
  local found, failure = buildq.queue.artifacts(id)
  if not found then return problem.from(failure) end
  for _, artifact in ipairs(found.artifacts) do
    if artifact.name == name then
      return buildq.response.file {
        build = id, attempt = found.attempt, name = name, type = content_type(name), etag = artifact.sha256,
        headers = {
          ["Content-Disposition"] = ('attachment; filename="%s"'):format(name),
          ["X-Content-Type-Options"] = "nosniff",
        },
      }
    end
  end
  return problem.new(404, ("Build %s has no artifact of that name."):format(id))
end

return {
  { method = "GET", path = "/builds/{id}/artifacts", handle = list },
  { method = "GET", path = "/downloads/{id}/{name}", handle = download },
}
