-- Where in an HTML page a template stands: a small machine that reads the fixed text between the tags of a template. It
-- knows enough of HTML to tell which escaping a value needs, and refuses places that no escaping makes safe.

local html = {}

---@class HtmlPlace
---@field state "text"|"tag"|"name"|"before"|"double"|"single"|"bare"|"comment"|"style"|"script"
---@field tag string lower-case name of the tag we are in, or were
---@field attribute string lower-case name of the attribute whose value we are in
---@field value_begun boolean something of that value was written
---@field closing? boolean the tag is a closing one

---@return HtmlPlace
function html.start() return { state = "text", tag = "", attribute = "", value_begun = false } end

---@param place HtmlPlace
---@return HtmlPlace
function html.copy(place)
  return { state = place.state, tag = place.tag, attribute = place.attribute, value_begun = place.value_begun }
end

---@param a HtmlPlace
---@param b HtmlPlace
---@return boolean
function html.same(a, b)
  if a.state ~= b.state then return false end
  if a.state ~= "double" and a.state ~= "single" then return true end
  return a.attribute == b.attribute and a.value_begun == b.value_begun
end

-- One function for each state: reads from `at`, changes the place, returns where to go on.
local STEPS = {}

function STEPS.text(place, text, at)
  local open = text:find("<", at, true)
  if not open then return #text + 1 end
  if text:sub(open, open + 3) == "<!--" then
    place.state = "comment"
    return open + 4
  end
  local name = text:match("^/?([%a][%w:-]*)", open + 1)
  if not name and not text:find("^/?$", open + 1) then return open + 1 end
  name = name or "" -- what follows would be the tag's name
  place.tag, place.state = name:lower(), "tag"
  place.closing = text:sub(open + 1, open + 1) == "/"
  return open + 1 + #name + (place.closing and 1 or 0)
end

function STEPS.comment(place, text, at)
  local _, stop = text:find("-->", at, true)
  if not stop then return #text + 1 end
  place.state = "text"
  return stop + 1
end

local function leave_tag(place)
  local raw = not place.closing and (place.tag == "style" or place.tag == "script")
  place.state = raw and place.tag or "text"
end

function STEPS.tag(place, text, at)
  local found = text:find("[^%s/]", at)
  if not found then return #text + 1 end
  if text:sub(found, found) == ">" then
    leave_tag(place)
    return found + 1
  end
  local name = text:match("^[^%s/>=]+", found) or ""
  place.attribute, place.state = name:lower(), "name"
  return found + math.max(#name, 1)
end

function STEPS.name(place, text, at)
  local found = text:find("%S", at)
  if not found then return #text + 1 end
  if text:sub(found, found) ~= "=" then
    place.state = "tag"
    return found
  end
  place.state = "before"
  return found + 1
end

function STEPS.before(place, text, at)
  local found = text:find("%S", at)
  if not found then return #text + 1 end
  local char = text:sub(found, found)
  place.value_begun = false
  place.state = char == '"' and "double" or char == "'" and "single" or "bare"
  return place.state == "bare" and found or found + 1
end

local function quoted(quote)
  return function(place, text, at)
    local stop = text:find(quote, at, true)
    if (stop or #text + 1) > at then place.value_begun = true end
    if not stop then return #text + 1 end
    place.state = "tag"
    return stop + 1
  end
end
STEPS.double, STEPS.single = quoted '"', quoted "'"

function STEPS.bare(place, text, at)
  local stop = text:find("[%s>]", at)
  if not stop then return #text + 1 end
  place.state = "tag"
  return stop
end

local function raw_text(place, text, at)
  local stop = text:lower():find("</" .. place.state, at, true)
  if not stop then return #text + 1 end
  place.tag, place.closing, place.state = place.state, true, "tag"
  return stop + 2 + #place.tag
end
STEPS.style, STEPS.script = raw_text, raw_text

--- Reads fixed text; changes the place.
---@param place HtmlPlace
---@param text string
function html.read(place, text)
  local at = 1
  while at <= #text do at = STEPS[place.state](place, text, at) end
end

local URLS <const> = {
  href = true, ["xlink:href"] = true, src = true, srcset = true, action = true, formaction = true, background = true,
  poster = true, cite = true, longdesc = true, ping = true, data = true, manifest = true,
}

--- How a value must be escaped that stands here; nil and a sentence where none may.
---@param place HtmlPlace
---@return "html"|"url"|"url_part"|"css"|nil escaping
---@return string? refusal
function html.escaping(place)
  local state = place.state
  if state == "text" then return "html" end
  if state == "double" or state == "single" then
    local begun = place.value_begun
    place.value_begun = true
    if place.attribute:find("^on") or place.attribute == "srcdoc" then
      return nil, ("a value can't stand in %s: it is code"):format(place.attribute)
    end
    if place.attribute == "style" then return "css" end
    if URLS[place.attribute] then return begun and "url_part" or "url" end
    return "html"
  end
  if state == "before" or state == "bare" then return nil, "put the attribute's value into quotes" end
  if state == "script" or state == "style" then return nil, ("a value can't stand inside <%s>"):format(state) end
  if state == "comment" then return nil, "a value can't stand inside a comment" end
  return nil, "a value can't stand inside a tag, but in the quotes of an attribute"
end

return html
