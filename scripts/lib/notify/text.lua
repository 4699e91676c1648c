-- Texts of builds, made to fit where they are shown.

local text = {}

--- Cut between characters; one that was cut ends in "…", which comes on top.
---@param value string
---@param bytes integer at most
---@return string
function text.cut(value, bytes)
  if #value <= bytes then return value end
  local stop = bytes
  while stop > 0 and (value:byte(stop + 1) & 0xC0) == 0x80 do stop = stop - 1 end
  return value:sub(1, stop) .. "…"
end

--- Blanks for runs of blanks, line breaks and control characters.
---@param value string
---@return string
function text.one_line(value) return (value:gsub("[%c%s]+", " "):gsub("^ ", ""):gsub(" $", "")) end

--- Lines stay, other control characters (a compiler's colours) go.
---@param value string
---@return string
function text.lines(value)
  return (value:gsub("\27%[[%d;]*%a", ""):gsub("\r\n?", "\n"):gsub("%c", { ["\n"] = "\n", ["\t"] = "  " })
    :gsub("[%z\1-\8\11-\31\127]", ""))
end

return text
