-- A real browser: headless Chromium, spoken to over its DevTools pipe (JSON, a NUL behind each message).
--
--   if not chromium.path then return pending(chromium.missing) end
--   local tab = chromium.open("http://127.0.0.1:8080/…")
--   tab:wait_for("document.title === 'x'")
--   tab:evaluate("document.body.innerText")
--   tab:screenshot("/tmp/x.png")
local uv = require "luv"
local json = require "dkjson"
local process = require "spec.support.process"

local chromium = {}

local function find()
  for directory in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local path = directory .. "/chromium"
    if uv.fs_access(path, "X") then return path end
  end
end

chromium.path = find()
chromium.missing = "chromium is not installed (apt-get install chromium)"

---@class Tab
local Tab = {}
Tab.__index = Tab

local function from_base64(text)
  return process.run({ "base64", "-d" }, { stdin = text }).output
end

--- Calls a method of the DevTools protocol; its result.
---@return table
function Tab:call(method, params, seconds)
  self.last = self.last + 1
  local id = self.last
  self.to:write(json.encode {
    id = id, method = method, params = params or setmetatable({}, { __jsontype = "object" }), sessionId = self.session,
  } .. "\0")
  process.wait_for(function() return self.answers[id] end, seconds or 30, method .. " of chromium")
  local answer = self.answers[id]
  self.answers[id] = nil
  if answer.error then error(("%s: %s"):format(method, answer.error.message), 2) end
  return answer.result
end

--- The value of an expression in the page; of a promise, what it gives.
function Tab:evaluate(expression)
  local result = self:call("Runtime.evaluate", { expression = expression, returnByValue = true, awaitPromise = true })
  if result.exceptionDetails then
    error(("%s: %s"):format(expression, json.encode(result.exceptionDetails.exception or {})), 2)
  end
  return result.result.value
end

--- Until the expression is true. A page that is loading just now is asked again.
function Tab:wait_for(expression, seconds)
  return process.wait_for(function() return self:evaluate(expression) end, seconds or 30, expression)
end

function Tab:go(url)
  self:call("Page.navigate", { url = url })
  self:wait_for(("location.href === %s && document.readyState === 'complete'"):format(json.encode(url)))
end

---@param options? {width: integer?, height: integer?, dark: boolean?}
function Tab:view(options)
  self:call("Emulation.setDeviceMetricsOverride", {
    width = options.width or 1200, height = options.height or 900, deviceScaleFactor = 1, mobile = false,
  })
  self:call("Emulation.setEmulatedMedia", {
    features = { { name = "prefers-color-scheme", value = options.dark and "dark" or "light" } },
  })
end

--- A frame of the page that is isolated from it, by words of its address; evaluate works there too.
---@param words string
---@return Tab
function Tab:frame(words)
  local target = process.wait_for(function()
    for _, info in ipairs(self:call("Target.getTargets").targetInfos) do
      if info.type == "iframe" and info.url:find(words, 1, true) then return info.targetId end
    end
  end, 30, "an isolated frame of " .. words)
  local session = self:call("Target.attachToTarget", { targetId = target, flatten = true }).sessionId
  return setmetatable({ session = session }, { __index = self, __newindex = self })
end

function Tab:screenshot(path)
  process.write(path, from_base64(self:call("Page.captureScreenshot", { format = "png" }).data))
end

--- What the console and the browser have complained of: "Refused to load …".
---@return string[]
function Tab:complaints() return self.log end

function Tab:close()
  self.child:kill "sigkill"
  self.child:wait()
end

local function read_message(tab, message)
  if message.id then
    tab.answers[message.id] = message
  elseif message.method == "Log.entryAdded" then
    tab.log[#tab.log + 1] = message.params.entry.text
  elseif message.method == "Runtime.exceptionThrown" then
    tab.log[#tab.log + 1] = message.params.exceptionDetails.text
  end
end

--- Starts a browser with one tab that shows the page; it ends with the spec file, or with close.
---@param url string
---@return Tab
function chromium.open(url)
  local to, from = uv.new_pipe(false), uv.new_pipe(false)
  local tab = setmetatable({ to = to, from = from, last = 0, answers = {}, log = {} }, Tab)
  local home = process.directory()
  tab.child = process.spawn({
    chromium.path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-extensions", "--remote-debugging-pipe", "--user-data-dir=" .. home,
    "about:blank",
  }, { pipes = { to, from }, to = home .. "/chromium.log" })
  local buffer = ""
  from:read_start(function(_, data)
    buffer = buffer .. (data or "")
    while true do
      local stop = buffer:find("\0", 1, true)
      if not stop then break end
      read_message(tab, json.decode(buffer:sub(1, stop - 1)))
      buffer = buffer:sub(stop + 1)
    end
  end)
  local target = process.wait_for(function()
    for _, info in ipairs(tab:call("Target.getTargets").targetInfos) do
      if info.type == "page" then return info.targetId end
    end
  end, 60, "chromium to start")
  tab.session = tab:call("Target.attachToTarget", { targetId = target, flatten = true }).sessionId
  for _, domain in ipairs { "Page", "Runtime", "Log" } do tab:call(domain .. ".enable") end
  tab:go(url)
  return tab
end

return chromium
