-- Writes templates/README.md from the code: make templates-manual. spec/lua/templates_manual_spec.lua compares.

local manual = {}

local HEAD <const> = [[
# templates

Texts that the server fills in. `email/` has the mails: one layout, and for each event an HTML file and a text file.
`pages/` has what browsers are shown: the preview of a mail, and what its link to stop mails leads to.
Made from the code by `make templates-manual`; don't edit this file.

Files here belong to a generation, as scripts do: `TemplateDirectory` is an overlay whose files win over the shipped
ones of the same path, and a change on disk takes effect in the same way (see `scripts/README.md`, "Overlays"). Before a
generation goes live every mail is rendered with sample builds, for each event and each cloud: a fault refuses the
generation, with the template's file and line. A name and colour of your own need no template: see the options of the
section `Email`.

## The language

| | |
|---|---|
| `{{ expression }}` | its value, escaped for the place it stands in: HTML text, attribute, URL, style, plain text |
| `{{ value \| filter: argument, argument }}` | what filters make of it, left to right |
| `{% if e %} {% elseif e %} {% else %} {% end %}` | `null` and `false` are not true, anything else is |
| `{% for x in list %} … {% else %} … {% end %}` | `else`: the list is empty; `loop.index`, `loop.first`, `loop.last` |
| `{% include "email/part.html" %}` | another template with the same data |
| `{% layout "email/layout.html" %}` | first thing in a file: its blocks fill those of the layout |
| `{% block name %} … {% end %}` | a part that may be filled, or that fills one |
| `{# … #}` | not for the reader |

Expressions: names (`build.tier`), `list[1]`, `"text"`, numbers, `true`, `false`, `null`, `==` `~=` `<` `<=` `>` `>=`,
`and`, `or`, `not`, parentheses. Files that end in `.html` are HTML, all others plain text. A name that isn't there is
an error with file and line; so is `null` where it is printed (`| default: "none"` prints something instead). No value
can stand where escaping doesn't help: in a script, a style sheet, a comment, an attribute without quotes, `onclick`.
A URL for `href` or `src` has the scheme http, https, mailto, tel or cid, or becomes `#`; behind text that begins the
URL a value is one part of it.

## Filters

| filter | takes | arguments | gives |
|---|---|---|---|
]]

local function cell(text) return (text or ""):gsub("|", "\\|") end

local function filters()
  local all, names, lines = require "template.filters".all, {}, {}
  for name in pairs(all) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local filter = all[name]
    lines[#lines + 1] = ("| `%s` | %s | %s | %s |"):format(name, cell(filter.values), cell(filter.arguments),
      cell(filter.does))
  end
  return table.concat(lines, "\n") .. "\n"
end

-- What a value is, in a word; `null` when no sample has it.
local function kind_of(value, null)
  if value == null then return "null" end
  if type(value) == "table" then return #value > 0 and "list" or "object" end
  return type(value)
end

local function collect(kinds, prefix, data, event, null)
  for name, value in pairs(data) do
    local path = prefix .. name
    local entry = kinds[path] or { kinds = {}, events = {} }
    kinds[path] = entry
    local kind = kind_of(value, null)
    entry.kinds[kind] = true
    if kind ~= "null" then entry.events[event] = true end
    if kind == "object" and path ~= "data" and path ~= "build.metadata" then
      collect(kinds, path .. ".", value, event, null)
    elseif kind == "list" and type(value[1]) == "table" then
      collect(kinds, path .. "[].", value[1], event, null)
    end
  end
end

local function variables(view, samples, null)
  local kinds, paths, lines = {}, {}, {}
  for _, made in ipairs(samples.all()) do
    local data = view.make {
      event = made.event, attempt = made.attempt, createdAt = made.createdAt, data = {}, outboxData = made.data,
      build = made.build, customer = made.customer, recipient = made.customer.email,
    }
    if made.event == "completed" then data.deploy = { where = "on AWS", commands = "…" } end
    collect(kinds, "", data, made.event, null)
  end
  for path in pairs(kinds) do paths[#paths + 1] = path end
  table.sort(paths)
  for _, path in ipairs(paths) do
    local entry, words, events = kinds[path], {}, {}
    for _, kind in ipairs { "boolean", "number", "string", "list", "object", "null" } do
      if entry.kinds[kind] then words[#words + 1] = kind end
    end
    for _, event in ipairs(samples.events) do
      if entry.events[event] then events[#events + 1] = event end
    end
    local where = #events == #samples.events and "all" or #events == 0 and "none of the samples"
      or table.concat(events, ", ")
    lines[#lines + 1] = ("| `%s` | %s | %s |"):format(path, table.concat(words, " or "), where)
  end
  return table.concat(lines, "\n") .. "\n"
end

local VARIABLES <const> = [[

## Variables

Of the samples; every name is there for every event, and `null` where nothing is known. `[]` stands for an item of the
list. `data` is what the rule in `scripts/notifications` gave.

| variable | what it is | has a value in the mails |
|---|---|---|
]]

---@return string
function manual.text()
  local null = io.stdout
  local loaded = package.loaded.buildq
  package.loaded.buildq = {
    json = { null = null },
    config = {
      DownloadBaseUrl = "", ServerUrl = "http://127.0.0.1:8080", MaxRetryAttempts = 3, BrandName = "Honua Server",
      BrandColor = "#2563c9", LogoUrl = "https://honua.example/logo.png", SupportAddress = "help@honua.example",
    },
  }
  package.loaded.buildq.notifications = {
    unsubscribe_url = function() return "https://honua.example/notifications/unsubscribe?token=…" end,
  }
  package.loaded["notify.view"] = nil
  local text = HEAD .. filters() .. VARIABLES .. variables(require "notify.view", require "notify.samples", null)
  package.loaded["notify.view"], package.loaded.buildq = nil, loaded
  return text
end

return manual
