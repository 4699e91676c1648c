-- Fair: inside a priority customers share the builders by weight, however many builds each of them sends. Start-time
-- fair queueing (Goyal, Vin, Cheng 1996): a build's start tag is the queue's virtual time or the end of the customer's
-- last one, whichever is later; it ends 1/weight later. Smallest start tag first.

local WEIGHTS <const> = { -- by customerId; 1 for everybody else
}
local UNIT <const> = 1000000

local function weight_of(build) return WEIGHTS[build.customerId] or 1 end

return {
  facts = { priority = { "tags" } },

  ---@param build buildq.PolicyBuild
  ---@param facts buildq.PolicyFacts
  ---@return buildq.PriorityAnswer
  priority = function(build, facts)
    local place = build.priority + 1
    local start = math.max(facts.tags.queue[place], facts.tags.customer[place], 1)
    return { key = ((3 - build.priority) << 58) + start, tag = start + math.ceil(UNIT / weight_of(build)) }
  end,

  check = function()
    for customer, weight in pairs(WEIGHTS) do
      if type(weight) ~= "number" or weight <= 0 then
        error(("the weight of %s must be a number above 0"):format(customer))
      end
    end
  end,
}
