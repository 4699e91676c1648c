-- Builds that enqueue themselves. Copy this file to ScriptDirectory/policies and fill the list:
--
--   {
--     name = "nightly",               -- of its runs and its pause; lower-case letters, digits, - and _
--     cron = "30 2 * * mon-fri",      -- crontab(5): minute, hour, day of the month, month, day of the week; or @daily
--     zone = "Europe/Berlin",         -- UTC when absent
--     missed = "latest",              -- of what came due while no server ran: skip (default), latest, all
--     request = { … },                -- the body of POST /builds
--   }
local SCHEDULES <const> = {}

return {
  ---@return Schedule[]
  schedule = function() return SCHEDULES end,
  check = function() require("schedule").check(SCHEDULES) end,
}
