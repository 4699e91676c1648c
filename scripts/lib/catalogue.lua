-- What the words of orders and manifests mean: modules, connectors, architectures, tiers, providers. Data alone; a team
-- edits it in lib/catalogue.lua of its ScriptDirectory (`buildq override scripts/lib/catalogue.lua`).

local catalogue = {}

---@class CatalogueModule
---@field projects string[] text that the paths of its projects contain, in any case
---@field tier string the lowest tier that may have it
---@field repository? string a name of catalogue.repositories; "product" when absent
---@field always? boolean it is in every order

-- Repositories that orders are built from. "product" is the source of lib/product.lua; others are named here:
--   tiles = { url = "https://git.example.org/honua/tiles.git", ref = "main", credentials = "git" }
---@type table<string, {url: string, ref?: string, credentials?: string}>
catalogue.repositories = {}

-- From the lowest to the highest. An order of a tier may have the modules of that tier and of those below it.
catalogue.tiers = { "core", "pro", "enterprise", "asp" }

-- What else a tier is called, in lower case.
catalogue.tier_names = {
  core = "core", starter = "core", community = "core", free = "core", standard = "core",
  pro = "pro", professional = "pro",
  enterprise = "enterprise",
  asp = "asp", ["enterprise-asp"] = "asp", enterpriseasp = "asp",
}

---@type table<string, CatalogueModule>
catalogue.modules = {
  Core = { projects = { ".Core" }, tier = "core", always = true },
  Api = { projects = { ".Server", ".Api", ".Host" }, tier = "core", always = true },
  OgcApi = { projects = { "OgcApi" }, tier = "core" },
  GeoservicesREST = { projects = { "GeoservicesREST", "GeoServices" }, tier = "pro" },
  Wfs = { projects = { "Wfs" }, tier = "core" },
  Wms = { projects = { "Wms" }, tier = "core" },
  Wmts = { projects = { "Wmts" }, tier = "core" },
  Wcs = { projects = { "Wcs" }, tier = "pro" },
  Csw = { projects = { "Csw" }, tier = "pro" },
  Stac = { projects = { "Stac" }, tier = "pro" },
  VectorTiles = { projects = { "VectorTiles", "Tiles" }, tier = "core" },
  Carto = { projects = { "Carto" }, tier = "pro" },
  Zarr = { projects = { "Zarr" }, tier = "enterprise" },
  Print = { projects = { "Print" }, tier = "pro" },
  Geometry = { projects = { "Geometry" }, tier = "core" },
  OData = { projects = { "OData" }, tier = "pro" },
}

---@type table<string, CatalogueModule>
catalogue.connectors = {
  PostgreSQL = { projects = { "Connectors.PostgreSQL", "Data.Postgre" }, tier = "core" },
  SQLite = { projects = { "Connectors.SQLite", "Data.Sqlite" }, tier = "core" },
  FileSystem = { projects = { "Connectors.FileSystem", "Storage.FileSystem" }, tier = "core" },
  SqlServer = { projects = { "Connectors.SqlServer", "Data.SqlServer" }, tier = "pro" },
  S3 = { projects = { "Connectors.S3", "Storage.S3" }, tier = "pro" },
  AzureBlob = { projects = { "Connectors.AzureBlob", "Storage.Azure" }, tier = "pro" },
  GoogleCloudStorage = { projects = { "Connectors.GoogleCloudStorage", "Storage.Google" }, tier = "pro" },
  BigQuery = { projects = { "Connectors.BigQuery", "Data.BigQuery" }, tier = "enterprise" },
  Snowflake = { projects = { "Connectors.Snowflake", "Data.Snowflake" }, tier = "enterprise" },
  Oracle = { projects = { "Connectors.Oracle", "Data.Oracle" }, tier = "enterprise" },
}

---@class CatalogueArchitecture
---@field os "linux"|"win"|"osx"
---@field cpu "x64"|"arm64"
---@field vectors string[] what `vectorization` may say, the first as good as any
---@field libc? "gnu"|"musl"
---@field triplet? string what Debian's cross compiler is called
---@field elf? integer e_machine of its programs
---@field oci? string architecture of the OCI image specification

---@type table<string, CatalogueArchitecture>
catalogue.architectures = {
  ["linux-x64"] = { os = "linux", cpu = "x64", libc = "gnu", vectors = { "avx2", "avx512" },
    triplet = "x86_64-linux-gnu", elf = 62, oci = "amd64" },
  ["linux-arm64"] = { os = "linux", cpu = "arm64", libc = "gnu", vectors = { "neon" }, triplet = "aarch64-linux-gnu",
    elf = 183, oci = "arm64" },
  ["linux-musl-x64"] = { os = "linux", cpu = "x64", libc = "musl", vectors = { "avx2", "avx512" }, elf = 62,
    oci = "amd64" },
  ["linux-musl-arm64"] = { os = "linux", cpu = "arm64", libc = "musl", vectors = { "neon" }, elf = 183, oci = "arm64" },
  ["win-x64"] = { os = "win", cpu = "x64", vectors = { "avx2", "avx512" } },
  ["win-arm64"] = { os = "win", cpu = "arm64", vectors = { "neon" } },
  ["osx-x64"] = { os = "osx", cpu = "x64", vectors = { "avx2" } },
  ["osx-arm64"] = { os = "osx", cpu = "arm64", vectors = { "neon" } },
}

-- What else they are called, in lower case.
catalogue.architecture_names = {
  amd64 = "linux-x64", x64 = "linux-x64", x86_64 = "linux-x64", ["linux-amd64"] = "linux-x64",
  ["linux/amd64"] = "linux-x64", ["linux-x86_64"] = "linux-x64",
  arm64 = "linux-arm64", aarch64 = "linux-arm64", ["linux-aarch64"] = "linux-arm64", ["linux/arm64"] = "linux-arm64",
  ["alpine-x64"] = "linux-musl-x64", ["linux-musl-amd64"] = "linux-musl-x64", ["musl-x64"] = "linux-musl-x64",
  ["alpine-arm64"] = "linux-musl-arm64", ["linux-musl-aarch64"] = "linux-musl-arm64",
  ["musl-arm64"] = "linux-musl-arm64",
  ["windows-x64"] = "win-x64", ["win-amd64"] = "win-x64", ["windows-amd64"] = "win-x64",
  ["windows-arm64"] = "win-arm64", ["win-aarch64"] = "win-arm64",
  ["macos-x64"] = "osx-x64", ["darwin-x64"] = "osx-x64", ["darwin-amd64"] = "osx-x64", ["osx-amd64"] = "osx-x64",
  ["macos-arm64"] = "osx-arm64", ["darwin-arm64"] = "osx-arm64", ["osx-aarch64"] = "osx-arm64",
}

-- Whose files `deploy/` is made of, by what a target's provider is called in lower case (templates/deploy).
catalogue.providers = {
  aws = "aws", amazon = "aws", azure = "azure", microsoft = "azure", gcp = "gcp", google = "gcp", googlecloud = "gcp",
  kubernetes = "kubernetes", k8s = "kubernetes", docker = "docker", compose = "docker",
  ["on-premises"] = "on-premises", onpremises = "on-premises", onprem = "on-premises", ["bare-metal"] = "on-premises",
}

--- The canonical name of an architecture, or nil.
---@param text string
function catalogue.architecture(text)
  local lower = text:lower()
  if catalogue.architectures[lower] then return lower end
  return catalogue.architecture_names[lower]
end

--- A tier's name in catalogue.tiers and its rank there, or nil.
---@param text string
---@return string? tier
---@return integer? rank
function catalogue.tier(text)
  local tier = catalogue.tier_names[text:lower()]
  for rank, name in ipairs(catalogue.tiers) do
    if name == tier then return tier, rank end
  end
  return nil
end

--- An entry of modules or connectors, whatever case its name came in.
---@param entries table<string, CatalogueModule>
---@param text string
---@return string? name
---@return CatalogueModule? entry
function catalogue.find(entries, text)
  local lower = text:lower()
  for name, entry in pairs(entries) do
    if name:lower() == lower then return name, entry end
  end
  return nil
end

--- The names of a table of the catalogue, sorted, for messages.
function catalogue.names(entries)
  local names = {}
  for name in pairs(entries) do names[#names + 1] = name end
  table.sort(names)
  return table.concat(names, ", ")
end

return catalogue
