-- Writes a history of thirty days for `buildq rehearse --from`: lua5.4 tests/bench/history.lua BUILDS > FILE. The same
-- number gives the same file. Customers differ in how much they send; one build of a hundred fails once.
local builds <const> = math.tointeger(tonumber(arg[1] or "100000"))
local CUSTOMERS <const>, SLOTS <const>, SPAN_S <const> = 200, 20, 30 * 86400
local MEAN_S <const> = 0.85 * SLOTS * SPAN_S / builds -- of a build, so that the slots are busy most of the time
local TIERS <const> = { "free", "pro", "enterprise" }
local ARCHITECTURES <const> = { "linux-x64", "linux-arm64" }
local LINE <const> = [[{"id":"%08x-0000-7000-8000-%012x","enqueuedAt":%d,"customerId":"c%03d",]]
  .. [["customerName":"Customer %d",]]
  .. [["tier":"%s","architecture":"%s","cloudProvider":"aws","pipeline":"honua-server","configurationName":"main",]]
  .. [["priority":%d,"status":"success","metadata":{},"rounds":[{"at":%d,"startedAt":%d,"attempts":[%s]}]}]]

-- Of its own, so that every Lua gives the same.
local state = 42
local function random()
  state = (state * 6364136223846793005 + 1442695040888963407) & 0x7fffffffffffffff
  return (state >> 11) / (1 << 52)
end

io.write(('{"format":"buildq history 1","slots":%d}\n'):format(SLOTS))
local at = 1767225600 * 1000000
for i = 1, builds do
  at = at + math.floor(-math.log(1 - random()) * SPAN_S * 1e6 / builds)
  local customer = math.floor(CUSTOMERS * random() ^ 3)
  local seconds = 3 * MEAN_S * random() ^ 2
  local good = ('{"seconds":%.3f,"outcome":"success"}'):format(seconds)
  local failed = ('{"seconds":%.3f,"outcome":"failed","kind":"step","message":"make: exit code 2","step":"Build"},')
    :format(seconds / 2)
  io.write(LINE:format(i, i, at, customer, customer, TIERS[customer % 3 + 1], ARCHITECTURES[i % 2 + 1], i * 7 % 4, at,
    at + 1000000, (random() < 0.01 and failed or "") .. good), "\n")
end
