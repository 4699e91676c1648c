-- Escaping for each place a value may stand in.

local escape = {}

local ENTITIES <const> = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

-- Without the characters that turn the direction of what follows (U+202A to U+202E, U+2066 to U+2069): a name with one
-- of them could make the words behind it read as others.
local function without_directions(text)
  return (text:gsub("\226\128[\170-\174]", ""):gsub("\226\129[\166-\169]", ""))
end

--- HTML text and quoted attributes (HTML Living Standard, 13.1.2.3 and 13.1.4). Control characters go: they have no
--- place in HTML, and none in mail.
---@param text string
---@return string
function escape.html(text)
  if not text:find("[\0-\8\11\12\14-\31\127&<>\"'\226]") then return text end -- as most are
  return (without_directions(text):gsub("[\0-\8\11\12\14-\31\127]", ""):gsub("[&<>\"']", ENTITIES))
end

--- One part of a URL: everything but RFC 3986's unreserved characters as %XX.
---@param text string
---@return string
function escape.url_part(text)
  return (text:gsub("[^%w%-%._~]", function(char) return ("%%%02X"):format(char:byte()) end))
end

local SCHEMES <const> = { http = true, https = true, mailto = true, cid = true, tel = true }

--- A whole URL for href or src: of a harmless scheme, or relative; anything else becomes "#".
---@param text string
---@return string
function escape.url(text)
  local scheme = text:match("^%s*([^/?#:]*):")
  if scheme and not SCHEMES[scheme:lower()] then return "#" end
  local clean = text:gsub("[%c%s\"'<>`\\^{|}]", function(char) return ("%%%02X"):format(char:byte()) end)
  return escape.html(clean)
end

--- A value inside a style attribute: a colour, a length, a word. nil for anything that could be more than that.
---@param text string
---@return string?
function escape.css(text)
  if text:match("^[%w#%%%.%- ]*$") and not text:lower():find("expression", 1, true) then return text end
  return nil
end

--- Plain text: control characters go, but for line breaks and tabs.
---@param text string
---@return string
function escape.plain(text)
  if not text:find("[\0-\8\11-\31\127\226]") then return text end
  return (without_directions(text):gsub("\r\n?", "\n"):gsub("[\0-\8\11-\31\127]", ""))
end

return escape
