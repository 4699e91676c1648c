-- What the pipeline honua-server builds when a manifest names no source or no build: order forms of the shop hold
-- neither. Nothing is shipped here; a team puts its own lib/product.lua into ScriptDirectory:
--
--   return {
--     source = { repository = "https://git.example.org/honua/server.git", ref = "main" },
--     build = { system = "make", targets = { "all" } },
--   }

---@class Product
---@field source? {repository: string, ref?: string, path?: string}
---@field build? {system: "make"|"cmake"|"command", targets?: string[], commands?: (string|string[])[]}

---@type Product
return {}
