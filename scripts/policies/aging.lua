-- Aging: a higher priority is worth a head start of HOURS, no more. key = time of enqueueing - priority * T, so nobody
-- who comes more than 3 T later can overtake, whatever their priority: nobody waits for ever behind important builds.

local HOURS <const> = 1
local T <const> = HOURS * 3600 * 1000000 -- microseconds

return {
  ---@param build buildq.PolicyBuild
  ---@return buildq.PriorityAnswer
  priority = function(build)
    return { key = build.enqueuedAt - build.priority * T }
  end,
}
