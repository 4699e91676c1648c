-- Expressions of templates, turned into Lua: `build.tier == "enterprise" and not build.imageUrl`, `size | bytes`.
--
--   pipe    = or { "|" name [ ":" or { "," or } ] }        filters, left to right
--   or      = and { "or" and }       and = not { "and" not }       not = "not" not | compare
--   compare = value [ ( "==" | "~=" | "<" | "<=" | ">" | ">=" ) value ]
--   value   = string | number | "true" | "false" | "null" | name { "." name | "[" or "]" } | "(" pipe ")"

local expression = {}

---@class Tokens
---@field list {kind: string, text: string}[]
---@field at integer the next one
---@field fail fun(message: string) raises with file and line
---@field scope table<string, string> loop variable → its Lua name
---@field is_known_filter fun(name: string): boolean

local KEYWORDS <const> = {
  ["or"] = true, ["and"] = true, ["not"] = true, ["true"] = true, ["false"] = true, null = true,
}
local COMPARISONS <const> = { ["=="] = "same", ["~="] = "other", ["<"] = "less", ["<="] = "at_most", [">"] = "more",
  [">="] = "at_least" }

local function read_string(text, from, fail)
  local quote = text:sub(from, from)
  local stop = text:find(quote, from + 1, true)
  if not stop then fail("a string is not closed: " .. text:sub(from)) end
  return text:sub(from + 1, stop - 1), stop + 1
end

-- One token from `from`: its kind, its text, where the next one begins.
local function read_token(text, from, fail)
  local char = text:sub(from, from)
  if char == '"' or char == "'" then
    local value, after = read_string(text, from, fail)
    return "string", value, after
  end
  local word = text:match("^[%a_][%w_]*", from)
  if word then return KEYWORDS[word] and "keyword" or "name", word, from + #word end
  word = text:match("^%d+%.?%d*", from)
  if word then return "number", word, from + #word end
  local two = text:sub(from, from + 1)
  if COMPARISONS[two] then return "symbol", two, from + 2 end
  if ("<>|:,.[]()-"):find(char, 1, true) then return "symbol", char, from + 1 end
  fail(("%q is no part of an expression"):format(char))
end

local function tokenize(text, fail)
  local list, at = {}, text:find("%S")
  while at do
    local kind, word, after = read_token(text, at, fail)
    list[#list + 1] = { kind = kind, text = word }
    at = text:find("%S", after)
  end
  return list
end

local function peek(tokens, text)
  local token = tokens.list[tokens.at]
  return token and token.kind ~= "string" and token.text == text
end

local function take(tokens, text)
  if not peek(tokens, text) then return false end
  tokens.at = tokens.at + 1
  return true
end

local function expect(tokens, text)
  if take(tokens, text) then return end
  local token = tokens.list[tokens.at]
  tokens.fail(("%q expected%s"):format(text, token and (", there is %q"):format(token.text) or " at the end"))
end

local function take_name(tokens, what)
  local token = tokens.list[tokens.at]
  if not token or token.kind ~= "name" then tokens.fail(what .. " expected") end
  tokens.at = tokens.at + 1
  return token.text
end

local parse_or, parse_pipe

-- A variable and what is below it. Each look-up names the whole path, so that a message can.
local function parse_path(tokens, name)
  local code = tokens.scope[name] or ("field(run, data, %q, %q)"):format(name, name)
  local path = name
  while true do
    if take(tokens, ".") then
      local key = take_name(tokens, "a name after .")
      path = path .. "." .. key
      code = ("field(run, %s, %q, %q)"):format(code, key, path)
    elseif take(tokens, "[") then
      path = path .. "[…]"
      code = ("field(run, %s, %s, %q)"):format(code, parse_or(tokens), path)
      expect(tokens, "]")
    else
      return code
    end
  end
end

local function negative(tokens)
  local token = tokens.list[tokens.at]
  if not token or token.kind ~= "number" then tokens.fail("a number expected after -") end
  tokens.at = tokens.at + 1
  return ("(-%s)"):format(token.text)
end

local function parse_value(tokens)
  local token = tokens.list[tokens.at]
  if not token then tokens.fail("a value expected at the end") end
  tokens.at = tokens.at + 1
  if token.kind == "string" then return ("%q"):format(token.text) end
  if token.kind == "number" then return token.text end
  if token.kind == "name" then return parse_path(tokens, token.text) end
  if token.text == "true" or token.text == "false" then return token.text end
  if token.text == "null" then return "null" end
  if token.text == "-" then return negative(tokens) end
  if token.text == "(" then
    local code = parse_pipe(tokens)
    expect(tokens, ")")
    return ("(%s)"):format(code)
  end
  tokens.fail(("a value expected, there is %q"):format(token.text))
end

local function parse_compare(tokens)
  local left = parse_value(tokens)
  local token = tokens.list[tokens.at]
  local operation = token and token.kind == "symbol" and COMPARISONS[token.text]
  if not operation then return left end
  tokens.at = tokens.at + 1
  return ("%s(run, %s, %s)"):format(operation, left, parse_value(tokens))
end

local function parse_not(tokens)
  if take(tokens, "not") then return ("(not truth(run, %s))"):format(parse_not(tokens)) end
  return parse_compare(tokens)
end

local function parse_and(tokens)
  local code = parse_not(tokens)
  while take(tokens, "and") do code = ("(truth(run, %s) and truth(run, %s))"):format(code, parse_not(tokens)) end
  return code
end

function parse_or(tokens)
  local code = parse_and(tokens)
  while take(tokens, "or") do code = ("(truth(run, %s) or truth(run, %s))"):format(code, parse_and(tokens)) end
  return code
end

local function parse_filter(tokens, code)
  local name = take_name(tokens, "the name of a filter")
  if not tokens.is_known_filter(name) then tokens.fail(("there is no filter %q"):format(name)) end
  local args = { code }
  if take(tokens, ":") then
    repeat args[#args + 1] = parse_or(tokens) until not take(tokens, ",")
  end
  return ("filter(run, %q, %s)"):format(name, table.concat(args, ", "))
end

function parse_pipe(tokens)
  local code = parse_or(tokens)
  while take(tokens, "|") do code = parse_filter(tokens, code) end
  return code
end

--- Lua code that computes the expression. It calls field, filter, truth and the comparisons, which the caller provides,
--- and reads `run`, `data` and `null`.
---@param text string
---@param scope table<string, string>
---@param is_known_filter fun(name: string): boolean
---@param fail fun(message: string) raises
---@return string code
function expression.compile(text, scope, is_known_filter, fail)
  local tokens = { list = tokenize(text, fail), at = 1, fail = fail, scope = scope, is_known_filter = is_known_filter }
  if #tokens.list == 0 then fail("an expression is missing") end
  local code = parse_pipe(tokens)
  local rest = tokens.list[tokens.at]
  if rest then fail(("%q is not expected here"):format(rest.text)) end
  return code
end

return expression
