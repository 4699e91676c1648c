-- The shipped priority policies, by their properties: whatever comes in which order.
local function policy(name) return dofile(("scripts/policies/%s.lua"):format(name)).priority end

local T_US <const> = 3600 * 1000000 -- one step of aging

describe("aging", function()
  local place = policy "aging"

  it("lets nobody who comes more than 3 T later overtake, and lets a higher priority pass before that", function()
    math.randomseed(7)
    for _ = 1, 20000 do
      local at = math.random(0, 1 << 50)
      local first = place { enqueuedAt = at, priority = math.random(0, 3) }
      local later = place { enqueuedAt = at + 3 * T_US + math.random(1, T_US), priority = math.random(0, 3) }
      assert.is_true(first.key < later.key)
    end
    assert.is_true(place({ enqueuedAt = T_US - 1, priority = 1 }).key < place({ enqueuedAt = 0, priority = 0 }).key)
  end)
end)

describe("fair", function()
  local place = policy "fair"

  -- The shipped file with weights filled in, as a team would.
  local function weighted(weights)
    local file <close> = assert(io.open "scripts/policies/fair.lua")
    local text, count = file:read("a"):gsub("(local WEIGHTS <const> = {[^\n]*\n)", "%1" .. weights, 1)
    assert(count == 1)
    return assert(load(text))()
  end

  -- A queue at one priority: builds come by customer, the smallest key is claimed. `waiting` holds {key, customer}.
  local function queue()
    local q = { waiting = {}, tags = {}, highest = 0, served = {} }
    function q.add(customer)
      local virtual = q.highest
      for _, build in ipairs(q.waiting) do virtual = math.min(virtual, build.start) end
      local answer = place({ customerId = customer, priority = 1 },
        { tags = { customer = { 0, q.tags[customer] or 0, 0, 0 }, queue = { 0, virtual, 0, 0 } } })
      q.tags[customer], q.highest = answer.tag, math.max(q.highest, answer.tag)
      q.waiting[#q.waiting + 1] = { key = answer.key, start = answer.key - (2 << 58), customer = customer }
    end
    function q.claim()
      local best = 1
      for index, build in ipairs(q.waiting) do
        if build.key < q.waiting[best].key then best = index end
      end
      local build = table.remove(q.waiting, best)
      q.served[build.customer] = (q.served[build.customer] or 0) + 1
      return build.customer
    end
    return q
  end

  it("serves customers that always wait alike, however many builds each has sent", function()
    local q = queue()
    for _ = 1, 300 do q.add "many" end
    for _ = 1, 30 do q.add "some" end
    for _ = 1, 60 do q.claim() end
    assert.is_true(math.abs(q.served.many - q.served.some) <= 1)
  end)

  it("shares by weight: who has three times another's is served three times as often", function()
    local before = place
    finally(function() place = before end)
    place = weighted("big = 3, half = 0.5").priority
    local q = queue()
    for _, customer in ipairs { "half", "one", "big" } do
      for _ = 1, 300 do q.add(customer) end
    end
    for _ = 1, 270 do q.claim() end
    for customer, expected in pairs { big = 180, one = 60, half = 30 } do
      assert.is_true(math.abs(q.served[customer] - expected) <= 2, customer .. " " .. q.served[customer])
    end
    assert.has_error(weighted("big = 0").check)
  end)

  it("lets a newcomer begin at once, and gives no credit for having been away", function()
    local q = queue()
    for _ = 1, 200 do q.add "a" end
    for _ = 1, 50 do q.claim() end
    for _ = 1, 40 do q.add "new" end
    local first
    for turn = 1, 40 do
      if q.claim() == "new" then first = first or turn end
    end
    assert.is_true(first <= 2)
    assert.is_true(q.served.new <= 21)
  end)

  it("keeps priorities apart: a higher one goes before any share", function()
    local facts = { tags = { customer = { 0, 0, 0, 1 << 57 }, queue = { 0, 0, 0, 0 } } }
    local high = place({ customerId = "x", priority = 3 }, facts)
    local none = { tags = { customer = { 0, 0, 0, 0 }, queue = { 0, 0, 0, 0 } } }
    local low = place({ customerId = "x", priority = 2 }, none)
    assert.is_true(high.key < low.key)
  end)
end)
