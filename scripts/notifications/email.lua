-- The customer is told by mail what becomes of the build. A file of this name in your ScriptDirectory replaces it.

---@param event NotificationEvent
---@return Delivery[]
local function deliver(event)
  local address = event.customer.email
  if type(address) ~= "string" or not address:find("@", 1, true) then return {} end
  return { { channel = "email", recipient = address, template = event.event } }
end

return {
  events = { "queued", "started", "retrying", "completed", "failed", "timedout", "cancelled" },
  deliver = deliver,
}
