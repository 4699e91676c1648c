-- Which calls `make torture` fails, and in which order.
local plan = require "tests.torture.plan"

local function first() return 1 end

local function place(hash, class, calls)
  return { hash = hash, class = class, calls = calls, name = "call", frames = {} }
end

local function calls_of(targets, hash)
  local list = {}
  for _, target in ipairs(targets) do if target.hash == hash then list[#list + 1] = target.nth end end
  return list
end

describe("a plan of torture", function()
  it("fails the first call of a place, the second, the fourth, and so on, and the last", function()
    local targets = plan.make({ place(1, "read", 1), place(2, "read", 9), place(3, "read", 8) }, first)
    assert.same({ 1 }, calls_of(targets, 1))
    assert.same({ 1, 2, 4, 8, 9 }, calls_of(targets, 2))
    assert.same({ 1, 2, 4, 8 }, calls_of(targets, 3))
  end)

  it("fails the first call of every place before the second of any", function()
    local places = {}
    for hash = 1, 20 do places[hash] = place(hash, "read", 5) end
    local targets = plan.make(places, math.random)
    for i = 1, 20 do assert.equal(1, targets[i].nth) end
    for i = 21, 40 do assert.equal(2, targets[i].nth) end
  end)

  it("takes a sample of each class in turn", function()
    local places = { place(100, "fsync", 1) }
    for hash = 1, 50 do places[#places + 1] = place(hash, "memory", 100) end
    for hash = 51, 70 do places[#places + 1] = place(hash, "libpq", 100) end
    local counts = {}
    for _, target in ipairs(plan.make(places, math.random, 9)) do
      counts[target.place.class] = (counts[target.place.class] or 0) + 1
    end
    assert.same({ fsync = 1, memory = 4, libpq = 4 }, counts)
  end)

  it("is the same for the same seed, in whatever order the places were found", function()
    local function generator()
      local state = 7
      return function(m)
        state = state * 1103515245 + 12345 & 0x7fffffff
        return state % m + 1
      end
    end
    local one, other = {}, {}
    for hash = 1, 30 do
      one[hash] = place(hash, "read", hash)
      other[31 - hash] = place(hash, "read", hash)
    end
    assert.same(plan.make(one, generator()), plan.make(other, generator()))
  end)

  it("of everything is everything", function()
    local targets = plan.make({ place(1, "read", 3), place(2, "write", 1) }, first, 100)
    assert.equal(4, #targets)
  end)
end)
