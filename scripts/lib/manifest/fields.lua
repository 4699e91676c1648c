-- The build form of the manifest as data: each object's fields, what each may be and what it is when absent. The
-- checker (manifest.build) and the JSON Schema (manifest.schema) are both made of these rows.

local fields = {}

---@class Field
---@field name string
---@field type "text"|"word"|"number"|"integer"|"boolean"|"list"|"object"|"map"
---@field help string one sentence
---@field required? boolean
---@field default? any what it is when absent
---@field standard? any the same for optimizations, which are laid over each other first
---@field max? integer characters of a text, items of a list, entries of a map
---@field low? number of a number
---@field high? number
---@field words? string[] of a word; any case, given back as they stand here
---@field of? Field|Field[] what a list or a map holds: one value, or an object of these fields
---@field fields? Field[] of an object
---@field check? string a rule of manifest.rules: "name", "url", "ref", "project" …
---@field unused? string why nothing acts on it: a warning when it is given
---@field lines? boolean a text may hold line breaks
---@field secret? boolean faults don't repeat it

local function text(name, max, help, more)
  local field = { name = name, type = "text", max = max, help = help }
  for key, value in pairs(more or {}) do field[key] = value end
  return field
end

local function flag(name, help, default)
  return { name = name, type = "boolean", default = default, help = help }
end

local function choice(name, help, standard)
  return { name = name, type = "boolean", standard = standard, help = help }
end

local ITEM_TEXT <const> = { name = "", type = "text", max = 255, help = "" }

fields.optimizations = {
  choice("pgo", "Profile-guided optimization: TieredPGO, with dynamicPgo.", true),
  choice("dynamicPgo", "Profiles are taken while it runs: TieredPGO, with pgo.", true),
  choice("tieredCompilation", "TieredCompilation.", true),
  choice("readyToRun", "PublishReadyToRun: code compiled ahead beside the IL; not with native AOT.", true),
  choice("trim", "PublishTrimmed: what isn't used is left out; needs selfContained.", true),
  choice("nativeAot", "PublishAot: a native program. Absent: wherever this server can make one."),
  choice("selfContained", "The .NET runtime is part of it.", true),
  { name = "vectorization", type = "word", words = { "neon", "avx2", "avx512" },
    help = "The vector instructions that its machines have." },
  { name = "optimizationPreference", type = "word", words = { "speed", "size", "balanced" }, standard = "balanced",
    help = "OptimizationPreference of native AOT." },
  { name = "ilcOptions", type = "list", max = 50, of = text("", 255, "", { check = "argument" }),
    help = "Arguments of the native AOT compiler." },
}

fields.repository = {
  text("name", 64, "What it is called here: a file name.", { required = true, check = "name" }),
  text("url", 2048, "https or ssh; file only below ManifestDirectory.",
    { required = true, check = "url", secret = true }),
  text("ref", 255, "Branch, tag or commit.", { default = "main", check = "ref" }),
  { name = "access", type = "word", words = { "public", "private" }, default = "public",
    help = "private needs credentials." },
  text("credentials", 64, "A name of the option Credentials, never a secret itself.", { check = "name" }),
  { name = "projects", type = "list", max = 500, of = text("", 1024, "", { check = "project" }),
    help = "Project files of it; all of them when empty." },
}

fields.registry = {
  text("url", 255, "Host and port.", { required = true, check = "registry" }),
  text("repository", 255, "The image's name there.", { check = "image" }),
  { name = "tagStrategy", type = "word", words = { "manifest-hash", "semantic-version", "commit-sha" },
    default = "manifest-hash",
    help = "v{version}-{hash}-{target}; {version}; the first 7 digits of the commit." },
  { name = "tags", type = "list", max = 20, of = text("", 128, "", { check = "tag" }),
    help = "More tags; these are moved when they name another image." },
  text("credentialsVariable", 64, "A name of the option Credentials.", { check = "name" }),
}

fields.target = {
  text("id", 64, "A file name, unique.", { required = true, check = "name" }),
  text("provider", 50, "aws, azure, gcp, kubernetes, docker, on-premises or another word.",
    { default = "on-premises" }),
  text("compute", 100, "What it runs on there; told to templates/deploy."),
  text("architecture", 50, "linux-x64, linux-arm64, … or an alias of the catalogue.", { required = true,
    check = "architecture" }),
  text("tier", 50, "A tier of the catalogue.", { default = "core", check = "tier" }),
  { name = "optimizations", type = "object", fields = fields.optimizations, help = "Over the manifest's own." },
  { name = "registry", type = "object", fields = fields.registry, help = "Where its image goes." },
}

local function limit(name, unit, unused)
  return { name = name, type = "number", low = 0, high = 1000000, help = unit, unused = unused }
end

local NOT_LIMITED <const> = "no build is limited by it here; the files in deploy/ say it"

fields.resources = {
  limit("cpuLimit", "Processors.", NOT_LIMITED),
  limit("memoryLimit", "GB.", NOT_LIMITED),
  limit("diskLimit", "GB.", "nothing acts on it: DiskReserveMegabytes keeps the disk from filling"),
  { name = "timeout", type = "number", low = 0.1, high = 43200, default = 60,
    help = "Minutes that one publish may take." },
}

fields.cost = {
  { name = "buildCost", type = "number", low = 0, high = 1e12, help = "Kept with the build." },
  { name = "storageCost", type = "number", low = 0, high = 1e12, help = "Kept with the build." },
  { name = "bandwidthCost", type = "number", low = 0, high = 1e12, help = "Kept with the build." },
  text("currency", 15, "USD"),
}

fields.deployment = {
  text("environment", 50, "production, staging …; told to templates/deploy."),
  text("region", 100, "Where it runs; told to templates/deploy."),
  flag("enableCache", "Packages are taken from the cache that builds share.", true),
  text("cacheBackend", 50, "", { unused = "nothing acts on it: packages are cached on the server's disk" }),
  text("cacheConnection", 2048, "", { unused = "nothing acts on it: packages are cached on the server's disk",
    secret = true }),
  { name = "parallelism", type = "integer", low = 1, high = 64, default = 4,
    help = "How many targets are compiled at once, at most." },
  { name = "resources", type = "object", fields = fields.resources, help = "" },
  { name = "costEstimate", type = "object", fields = fields.cost, help = "Kept with the build." },
}

fields.root = {
  text("id", 64, "", { check = "name" }),
  text("version", 50, "Of what is built; in tags and labels.", { default = "1.0", check = "version" }),
  text("name", 255, "", { required = true }),
  text("description", 2000, "", { lines = true }),
  text("createdAt", 50, "", { check = "time" }),
  text("pipeline", 100, "The pipeline that builds it: honua-server."),
  { name = "needs", type = "list", max = 32, of = text("", 64, "", { check = "label" }),
    help = "Labels that the server must offer that builds it." },
  { name = "repositories", type = "list", required = true, max = 20, of = fields.repository, help = "" },
  { name = "modules", type = "list", required = true, max = 500, of = ITEM_TEXT,
    help = "Text that the paths of projects contain, in any case; other projects are left out." },
  { name = "targets", type = "list", required = true, max = 50, of = fields.target, help = "" },
  { name = "deployment", type = "object", fields = fields.deployment, help = "" },
  { name = "optimizations", type = "object", fields = fields.optimizations, help = "Of all targets." },
  { name = "properties", type = "map", max = 100, of = text("", 2048, "", { check = "property", min = 0 }),
    help = "MSBuild properties." },
  { name = "environmentVariables", type = "map", max = 500,
    of = text("", 32768, "", { check = "variable", min = 0, lines = true, secret = true }),
    help = "Of the image and of the files in deploy/." },
}

return fields
