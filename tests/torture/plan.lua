-- Which calls are to fail: of each place its first call, its second, its fourth … and its last; or a sample of these.
-- Pure: places go in, targets come out.
local plan = {}

---@class Target
---@field hash integer the place
---@field nth integer which of its calls fails
---@field place Place

-- What comes first when time is short: places in the order of a shuffle; of each its first call, before others.
local function shuffle(list, random)
  for i = #list, 2, -1 do
    local j = random(i)
    list[i], list[j] = list[j], list[i]
  end
end

---@param places Place[]
---@param random fun(m: integer): integer 1 to m
---@param sample? integer at most so many, spread over the classes
---@return Target[]
function plan.make(places, random, sample)
  local rounds = {}
  table.sort(places, function(a, b) return math.ult(a.hash, b.hash) end)
  for _, place in ipairs(places) do
    local round, nth = 1, 1
    while nth <= place.calls do
      rounds[round] = rounds[round] or {}
      table.insert(rounds[round], { hash = place.hash, nth = nth, place = place })
      if nth == place.calls then break end
      round, nth = round + 1, math.min(nth * 2, place.calls)
    end
  end
  local all = {}
  for _, round in ipairs(rounds) do
    shuffle(round, random)
    table.move(round, 1, #round, #all + 1, all)
  end
  if not sample or sample >= #all then return all end
  local by_class, order, picked = {}, {}, {}
  for _, target in ipairs(all) do
    local class = target.place.class
    if not by_class[class] then
      by_class[class] = {}
      order[#order + 1] = class
    end
    table.insert(by_class[class], target)
  end
  for at = 1, #all do
    for _, class in ipairs(order) do
      if by_class[class][at] and #picked < sample then picked[#picked + 1] = by_class[class][at] end
    end
    if #picked == sample then break end
  end
  return picked
end

return plan
