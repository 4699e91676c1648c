-- How long a build takes and what it costs, by the builds of its kind. Copy this file to ScriptDirectory/policies and
-- fill the price table; without a price there is no cost.
local PRICES <const> = {
  currency = "EUR",
  perHour = nil,          -- of a running build, when no line below names its architecture
  byArchitecture = {},    -- per hour: { ["linux-arm64"] = 0.12, ["linux-x64"] = 0.18 }
  perBuild = 0,           -- added to each
}

local function price_of(build)
  return PRICES.byArchitecture[build.architecture] or PRICES.perHour
end

return {
  ---@param build buildq.PolicyBuild
  ---@param history buildq.BuildHistory
  ---@return buildq.EstimateAnswer?
  estimate = function(build, history)
    if history.count == 0 then return nil end
    local price = price_of(build)
    return {
      seconds = history.p50,
      secondsHigh = history.p90,
      cost = price and PRICES.perBuild + price * history.mean / 3600 or nil,
      currency = price and PRICES.currency or nil,
    }
  end,
}
