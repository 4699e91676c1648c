-- What the pipeline honua-server builds when a manifest names no source or no build: order forms of the shop hold
-- neither. Nothing is shipped here; a team puts its own lib/product.lua into ScriptDirectory:
--
--   return {
--     source = { repository = "https://git.example.org/honua/server.git", ref = "main" },
--     build = { system = "dotnet" }, -- or make with its targets, cmake, command
--   }

---@class Product
---@field source? {repository: string, ref?: string, path?: string, credentials?: string}
---@field build? {system: "make"|"cmake"|"command"|"dotnet", targets?: string[], commands?: (string|string[])[]}

---@type Product
return {}
