-- make mail-screenshots: every mail as Chromium draws it, 320 and 800 pixels wide, light and dark, in build/mails; look
-- at index.html there. Run by busted, whose end is what spec/support/process hangs its own on. It fails where a mail is
-- wider than the screen.
local uv = require "luv"
local chromium = require "spec.support.chromium"
local process = require "spec.support.process"

local PROGRAM <const> = (os.getenv "BUILDQ_BUILD" or "build") .. "/buildq"
local TARGET <const> = uv.cwd() .. "/build/mails"
local CLOUDS <const> = { "aws", "azure", "gcp", "on-premises", "other" }
local EVENTS <const> = { "queued", "started", "retrying", "completed", "failed", "timedout", "cancelled" }

-- What differs by the cloud is the mail of a completed build; of the cloud "other" little is known of each sample.
local function render(event)
  local names = {}
  for _, cloud in ipairs(event == "completed" and CLOUDS or { "aws", "other" }) do
    local name = event .. "-" .. cloud
    process.check { PROGRAM, "mail", "preview", event, "--cloud", cloud, "--html", ("%s/%s.html"):format(TARGET, name) }
    names[#names + 1] = name
  end
  return names
end

describe("the mails", function()
  local tab, index

  setup(function()
    process.check { "rm", "-rf", TARGET }
    process.check { "mkdir", "-p", TARGET }
    tab, index = chromium.open "about:blank", {}
  end)

  teardown(function()
    process.write(TARGET .. "/index.html", table.concat(index, "\n"))
    tab:close()
  end)

  local function draw(name, width, dark)
    local picture = ("%s-%d-%s.png"):format(name, width, dark and "dark" or "light")
    tab:view { width = width, height = 400, dark = dark }
    assert.truthy(tab:evaluate "document.documentElement.scrollWidth" <= width, picture .. " is wider than the screen")
    tab:view { width = width, height = tab:evaluate "document.documentElement.scrollHeight", dark = dark }
    tab:screenshot(TARGET .. "/" .. picture)
    index[#index + 1] = ('<img src="%s" style="vertical-align:top">'):format(picture)
  end

  for _, event in ipairs(EVENTS) do
    it("of " .. event, function()
      for _, name in ipairs(render(event)) do
        tab:go(("file://%s/%s.html"):format(TARGET, name))
        index[#index + 1] = ("<h2>%s</h2>"):format(name)
        for _, width in ipairs { 320, 800 } do
          for _, dark in ipairs { false, true } do draw(name, width, dark) end
        end
      end
    end)
  end
end)
