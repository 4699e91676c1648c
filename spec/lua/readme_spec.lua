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
end)
