-- What must be true of any text as a template (fuzz_template.c). Raises what is not.
local template = require "template"

local NULL <const> = setmetatable({}, { __tostring = function() return "null" end })
local MARK <const> = [[<q'">&]] -- in HTML it never comes out as it is

local OTHERS <const> = {
  ["email/part.html"] = "<b>{{ build.name }}</b>{% block inner %}{% end %}",
  ["email/layout.html"] = "<html><body class=\"{{ text }}\">{% block body %}{% end %}</body></html>",
  ["email/part.txt"] = "{{ build.name }}",
  ["email/layout.txt"] = "{% block body %}{% end %}",
}
local DATA <const> = {
  text = MARK, url = "https://x.example/" .. MARK, none = NULL, yes = true, count = 3, list = { MARK, "b", "c" },
  build = { name = MARK, at = "2026-01-31T12:00:00Z", size = 1234567, none = NULL, files = { { name = MARK } } },
}

-- An error is a sentence with the template's file, and with its line where one is to blame.
local function is_told(message)
  return type(message) == "string" and message:find "^templates/email/%a+%.%a+:%d+: ."
    or message:find "^there is no template "
end

local function try(path, text)
  local engine = template.new { null = NULL, read = function(name)
    if name == path then return text end
    return OTHERS[name]
  end, load = function(code, name)
    return assert(load(code, name), "the compiler made what Lua does not take")
  end }
  local ok, made = pcall(engine.render, engine, path, DATA)
  if not ok then
    if type(made) == "string" and made:find "too many steps" then return end
    assert(is_told(made), "not told: " .. tostring(made))
    return
  end
  assert(#made <= 1024 * 1024, "longer than it may be")
  if path:find "%.html$" and not text:find("unescaped", 1, true) and not text:find(MARK, 1, true) then
    assert(not made:find(MARK, 1, true), "a value stands in HTML as it is")
  end
end

return function(text)
  try("email/input.html", text)
  try("email/input.txt", text)
end
