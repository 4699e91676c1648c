-- Pages for people: a template of templates/pages, with headers that let it load nothing and run only its own script.

local buildq = require "buildq"
local template = require "template"

local page = {}

local engine = template.new { read = buildq.templates.read, null = buildq.json.null }

--- Renders a page. `nonce` is there as data: `<style nonce="{{ nonce }}">` and `<script nonce="{{ nonce }}">` count, no
--- other style or script does (CSP Level 3, section 8.1).
---@param path string "pages/preview.html"
---@param data table<string, any>
---@return string text
---@return string nonce
function page.render(path, data)
  data.nonce = buildq.uuid():gsub("-", "")
  return engine:render(path, data), data.nonce
end

--- A response with a page.
---@param path string
---@param data table<string, any>
---@param status? integer
---@return Response
function page.new(path, data, status)
  local text, nonce = page.render(path, data)
  local policy = "default-src 'none'; style-src 'nonce-%s'; script-src 'nonce-%s'; img-src data:; connect-src 'self'; "
    .. "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
  return {
    status = status or 200, body = text,
    headers = {
      ["Content-Type"] = "text/html; charset=utf-8", ["Cache-Control"] = "no-store",
      ["Content-Security-Policy"] = policy:format(nonce, nonce), ["X-Content-Type-Options"] = "nosniff",
      -- The address may hold a token. With no-referrer a form of this page would come from the origin "null".
      ["Referrer-Policy"] = "same-origin",
    },
  }
end

--- A response with HTML that others wrote, to stand in a frame of ours: nothing in it runs, and it has no origin.
---@param html string
---@return Response
function page.framed(html)
  return {
    status = 200, body = html,
    headers = {
      ["Content-Type"] = "text/html; charset=utf-8", ["Cache-Control"] = "no-store",
      ["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src http: https: data:; "
        .. "sandbox; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
      ["X-Content-Type-Options"] = "nosniff", ["Referrer-Policy"] = "no-referrer",
    },
  }
end

return page
