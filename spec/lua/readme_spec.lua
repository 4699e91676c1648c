-- README's tables of options are what the program says, word for word.
local function read(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text
end

describe("README", function()
  it("has the options that the program has", function()
    local build = os.getenv "BUILDQ_BUILD" or "build"
    local program = io.open(build .. "/buildq")
    if not program then return pending "the program is not built" end
    program:close()
    local out = assert(io.popen(build .. "/buildq config options"))
    local options = out:read("a"):gsub("%s+$", "")
    out:close()
    local readme = read "README.md"
    local shown = readme:match "%-%- options:[^\n]*\n(.-)\n<!%-%- end of options"
    assert.equal(options, shown)
  end)

  it("has every route in its table of the API", function()
    local table_of_api = read("README.md"):match "\n| request | answer |\n(.-)\n\n"
    local found = 0
    for path in io.popen("ls scripts/routes/*.lua"):lines() do
      for method, address in read(path):gmatch 'method = "(%u+)", path = "([^"]+)"' do
        found = found + 1
        -- A row may name a further path by its end: `POST /queue/pause`, `/resume`.
        local last = address:match "/[^/]+$"
        local named = table_of_api:find(address, 1, true) or table_of_api:find("`" .. last .. "`", 1, true)
          or table_of_api:find(", `" .. last .. "`", 1, true)
        assert.truthy(named, ("%s %s of %s"):format(method, address, path))
      end
    end
    assert.truthy(found > 30)
  end)

  it("has every command in its table of commands", function()
    local table_of_commands = read("README.md"):match "\n| command | what it does |\n(.-)\n\n"
    local rows = read("core/main.c"):match "commands%[%] = {\n(.-)\n};"
    for name in rows:gmatch '{"(%w+)",' do
      local named = table_of_commands:find("`" .. name .. "[` ]") or name == "version"
      assert.truthy(named, name)
    end
  end)
end)
