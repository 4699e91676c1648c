-- The specs' support without busted, for programs: require this one first.
--
--   local alone = require "spec.support.alone"
--   local Server = require "spec.support.server"
--   …
--   alone.finish()      -- ends what was started and removes its directories, as the end of a spec file does
local endings = {}

package.preload.busted = function()
  return { subscribe = function(event, fn) if event[1] == "file" then endings[#endings + 1] = fn end end }
end

local alone = {}

function alone.finish()
  for _, fn in ipairs(endings) do fn() end
end

return alone
