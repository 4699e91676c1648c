-- The notification @NAME@: whom an event of a build is told, and how.
-- All fields: scripts/README.md, and lib/buildq.d.lua for your editor.

---One delivery for each who is told; nothing for nobody.
---@param event NotificationEvent
---@return Delivery[]
local function deliver(event)
  if not event.customer.email:find("@", 1, true) then return {} end
  return {
    { channel = "email", recipient = event.customer.email, template = event.event, data = { by = "@NAME@" } },
  }
end

return { events = { "completed", "failed" }, deliver = deliver }
