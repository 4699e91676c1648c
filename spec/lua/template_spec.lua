-- The template language: what it writes, what it escapes, and that every mistake names its file and line.
local template = require "template"

local NULL <const> = io.stdout -- any userdata will do

-- Renders `text` as templates/t.html (or another name) beside other files.
local function render(text, data, more)
  local files = { ["t.html"] = text }
  for path, body in pairs(more or {}) do files[path] = body end
  local engine = template.new { read = function(path) return files[path] end, null = NULL }
  return engine:render("t.html", data or {})
end

local function plain(text, data)
  return template.new { read = function() return text end, null = NULL }:render("t.txt", data or {})
end

local function fails(text, data, more)
  local ok, message = pcall(render, text, data, more)
  assert.is_false(ok, "it was accepted")
  return message
end

describe("a template", function()
  it("prints values, and refuses what is not there", function()
    local data = { build = { id = "7", size = 12, list = { "a", "b" }, image = NULL, deep = { x = { y = "z" } } } }
    assert.equal("id 7, z, b", render("id {{ build.id }}, {{ build.deep.x.y }}, {{ build.list[2] }}", data))
    assert.equal("templates/t.html:2: there is no build.nmae", fails("\n{{ build.nmae }}", data))
    assert.equal("templates/t.html:1: there is no bulid", fails("{{ bulid.id }}", data))
    assert.matches("^templates/t.html:1: the value is null", fails("{{ build.image }}", data))
    assert.equal("none", render("{{ build.image | default: 'none' }}", data))
    assert.matches("what it is part of is null", fails("{{ build.image.url }}", data))
    assert.matches("a table can't be printed", fails("{{ build.list }}", data))
  end)

  it("decides and repeats", function()
    local text = "{% if n > 2 %}many{% elseif n == 2 %}two{% elseif n == 1 %}one{% else %}none{% end %}"
    for n, word in pairs { [0] = "none", "one", "two", "many" } do assert.equal(word, render(text, { n = n })) end
    text = "{% for x in list %}{{ loop.index }}{{ x.name }}{% if not loop.last %}, {% end %}{% else %}empty{% end %}"
    assert.equal("1a, 2b", render(text, { list = { { name = "a" }, { name = "b" } } }))
    assert.equal("empty", render(text, { list = {} }))
    assert.equal("12 34 ", render("{% for r in rows %}{% for c in r %}{{ c }}{% end %} {% end %}", { rows = { { 1,
      2 }, { 3, 4 } } }))
    assert.equal("y", render("{% if not (a and b) or c == 'x' %}y{% end %}", { a = true, b = NULL, c = "q" }))
    assert.equal("-3", render("{{ n }}{% if n < -2 %}{% end %}", { n = -3 }))
    assert.matches("a string and a number can't be compared", fails("{% if s > 1 %}{% end %}", { s = "a" }))
  end)

  it("leaves no empty lines where a tag stood alone", function()
    assert.equal("a\nb\nc\n", plain("a\n{% if true %}\n  {# why #}\nb\n{% end %}\nc\n"))
  end)

  it("includes, and fills a layout's blocks", function()
    local more = {
      ["layout.html"] = "<p>{% block title %}untitled{% end %}</p>{% include 'foot.html' %}{% block body %}{% end %}",
      ["foot.html"] = "<i>{{ brand }}</i>",
    }
    local text = "{% layout 'layout.html' %}\n{% block body %}<b>{{ name }}</b>{% end %}\n"
    assert.equal("<p>untitled</p><i>H</i><b>&lt;x&gt;</b>", render(text, { brand = "H", name = "<x>" }, more))
    assert.equal("templates/foot.html:1: there is no brand", fails(text, { name = "x" }, more))
    assert.matches("text outside of a block", fails("{% layout 'layout.html' %}hello", {}, more))
    assert.equal("templates/t.html:1: there is no template templates/no.html", fails("{% include 'no.html' %}"))
    assert.matches("more than 10 templates", fails("{% include 't.html' %}"))
  end)

  it("escapes a character alone as beside others", function() -- what needs nothing is not searched further
    for byte = 0, 127 do
      local char = string.char(byte)
      assert.equal(render("{{ x }}", { x = char .. "<" }), render("{{ x }}", { x = char }) .. "&lt;")
      assert.equal(plain("{{ x }}", { x = char .. "\1" }), plain("{{ x }}", { x = char }))
    end
  end)

  it("escapes for the place a value stands in", function()
    local evil = [[<script>alert("x")</script>&' ]]
    assert.equal("<p>&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39; </p>", render("<p>{{ x }}</p>",
      { x = evil }))
    assert.equal('<a title="&quot;&gt;">', render('<a title="{{ x }}">', { x = '">' }))
    assert.equal("<a title='&#39;&gt;'>", render("<a title='{{ x }}'>", { x = "'>" }))
    assert.equal('<a href="#">', render('<a href="{{ x }}">', { x = "javascript:alert(1)" }))
    assert.equal('<a href="#">', render('<a href="{{ x }}">', { x = " \tdata:text/html,x" }))
    assert.equal('<a href="https://h/a?b=c&amp;d=%22">', render('<a href="{{ x }}">', { x = 'https://h/a?b=c&d="' }))
    assert.equal('<a href="https://h/%2E%2E?q=a%26b%3D%22">',
      (render('<a href="https://h/{{ x }}?q={{ y }}">', { x = "..", y = 'a&b="' }):gsub("/%.%.", "/%%2E%%2E")))
    assert.equal('<p style="color: #12ab">', render('<p style="color: {{ x }}">', { x = "#12ab" }))
    assert.matches("no plain CSS value", fails('<p style="color: {{ x }}">', { x = "red;background:url(x)" }))
    assert.equal("a<b>\n&\"", plain("{{ x }}", { x = "a<b>\r\n&\"\0\27" }))
    assert.equal("<b>", render("{{ x | unescaped }}", { x = "<b>" }))
  end)

  it("lets no name turn the words behind it round", function()
    assert.equal("gnp.exe", render("{{ x }}", { x = "\u{202E}gnp.exe\u{2066}" }))
    assert.equal("gnp.exe", plain("{{ x }}", { x = "\u{202E}gnp.exe\u{2066}" }))
    assert.equal("שלום é 🚀", render("{{ x }}", { x = "שלום é 🚀" }))
  end)

  it("quotes and colours a shell's lines", function()
    assert.equal("a 'it'\\''s; rm -rf /'", plain("a {{ x | quoted }}", { x = "it's; rm -rf /" }))
    local html = render("<pre>{{ x | shell }}</pre>", { x = "# <b>\naws s3 --x '</pre><script>'" })
    assert.falsy(html:find("<b>", 1, true) or html:find("<script>", 1, true))
    local text = html:match("^<pre>(.*)</pre>$"):gsub("<span[^>]*>", ""):gsub("</span>", "")
    assert.equal("# &lt;b&gt;\naws s3 --x &#39;&lt;/pre&gt;&lt;script&gt;&#39;", text)
  end)

  it("refuses places that no escaping makes safe", function()
    local data = { x = "1" }
    for _, text in ipairs { "<a {{ x }}>", "<a title={{ x }}>", "<{{ x }}>", "<script>{{ x }}</script>",
      "<a x{{ x }}=''>",
      "<style>{{ x }}</style>", '<iframe srcdoc="{{ x }}">', "<!-- {{ x }} -->", '<a onclick="{{ x }}">',
        "<a title= {{ x }}>" } do
      local ok, message = pcall(render, text, data)
      assert.is_false(ok, text)
      assert.matches("^templates/t.html:1: ", message)
    end
    assert.equal("<script>var a = '<b>';</script>1<style>p > a {}</style>1<!-- <b \" -->1",
      render("<script>var a = '<b>';</script>{{ x }}<style>p > a {}</style>{{ x }}<!-- <b \" -->{{ x }}", data))
  end)

  it("wants branches to end where they agree", function()
    assert.matches("different places", fails('{% if true %}<a href="{% else %}x{% end %}'))
    assert.matches("different places", fails("{% if true %}<a {% end %}>"))
    assert.matches("different places", fails("{% for x in l %}<a {% end %}>", { l = {} }))
    assert.equal('<a href="x">', render('<a {% if true %}href="x"{% else %}title="y"{% end %}>'))
    assert.matches("ends inside a tag", fails("<a"))
  end)

  it("names file and line of every mistake", function()
    local rows = {
      ["{{ }}"] = "an expression is missing", ["{{ a"] = "{{ is not closed", ["{% if true %}"] = "the if is not ended",
      ["{% end %}"] = "an end too many", ["{% else %}"] = "without an if", ["{% elseif true %}"] = "without an if",
      ["{% fi %}"] = "there is no tag", ["{{ a | nope }}"] = 'there is no filter "nope"',
        ["{{ a b }}"] = '"b" is not expected',
      ["{{ a. }}"] = "a name after . expected", ["{{ 'a }}"] = "a string is not closed",
        ["{{ a ; b }}"] = '";" is no part',
      ["{% for x %}{% end %}"] = "a for is written", ["{% include x %}"] = "needs a path in quotes",
      ["{% block a %}{% end %}{% block a %}{% end %}"] = "two blocks", ["{{ (a }}"] = '")" expected',
      ["x{% layout 'y' %}"] = "named first", ["{{ 3 | date }}"] = "date needs a time",
      ["{% if true %}{% else %}{% else %}{% end %}"] = "after the else",
    }
    for text, message in pairs(rows) do
      local told = fails("\n\n" .. text, { a = "x" })
      assert.truthy(told:find("templates/t.html:3: ", 1, true) == 1 and told:find(message, 1, true), told)
    end
  end)

  it("is bounded", function()
    assert.matches("longer than 1 MB", fails("{% for x in l %}{{ x }}{% end %}", { l = { ("x"):rep(600000),
      ("x"):rep(600000) } }))
    assert.matches("more than 50 tags are open", fails(("{% if true %}"):rep(60) .. ("{% end %}"):rep(60)))
  end)
end)

describe("a filter", function()
  local function filtered(text, value) return plain("{{ " .. text .. " }}", { v = value }) end

  it("writes values for people", function()
    for _, row in ipairs {
      { "v | bytes", 999, "999 bytes" }, { "v | bytes", 12345678, "12.3 MB" }, { "v | bytes", 1000, "1 kB" },
      { "v | duration", 3.14159, "3.14 s" }, { "v | duration", 200, "3 min 20 s" }, { "v | duration", 7300,
        "2 h 1 min" },
      { "v | date", "2026-02-28T23:59:59.123456Z", "28 February 2026 23:59" },
      { "v | date: '%Y/%m/%d'", "2024-02-29T00:00:00Z", "2024/02/29" }, { "v | date", "1970-01-01T00:00:00Z",
        "1 January 1970 00:00" },
      { "v | join", { "a", "b" }, "a, b" }, { "v | join: '-'", { "a", 2 }, "a-2" }, { "v | truncate: 3", "äöüß",
        "äö…" },
      { "v | truncate: 4", "äöüß", "äöüß" }, { "v | upper | lower", "Ab", "ab" }, { "v | number: 2", 3.14159,
        "3.14" },
      { "v | length", "äö", "2" }, { "v | default: 'x'", "", "x" }, { "v | indent: 2", "a\nb", "  a\n  b" },
      { "v | url_part", "a b/ä", "a%20b%2F%C3%A4" }, { "v", 5.0, "5" },
    } do assert.equal(row[3], filtered(row[1], row[2])) end
  end)
end)
