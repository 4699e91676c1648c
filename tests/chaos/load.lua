-- The load: builds at a steady rate, each repeated under its Idempotency-Key until a server has said that it is
-- accepted.
local uv = require "luv"
local json = require "dkjson"
local builds = require "spec.support.builds"
local http = require "tests.chaos.http"
local pipelines = require "tests.chaos.pipelines"

local AGAIN_MS <const> = 300

---@class Submission
---@field key string
---@field id string|nil once it is accepted
---@field pipeline string
---@field tries integer

---@class Load
---@field world World
---@field random fun(m: integer): integer
---@field submissions Submission[]
---@field refused string[] answers that are no answer to a good request
---@field open integer not yet accepted
local Load = {}
Load.__index = Load

---@param world World
---@param random fun(m: integer): integer
---@return Load
function Load.new(world, random)
  local self = setmetatable({ world = world, random = random, submissions = {}, refused = {}, open = 0 }, Load)
  self.total = 0
  for _, each in ipairs(pipelines.WEIGHTS) do self.total = self.total + each[2] end
  return self
end

local function pick(self)
  local at = self.random(self.total)
  for _, each in ipairs(pipelines.WEIGHTS) do
    at = at - each[2]
    if at <= 0 then return each[1] end
  end
end

local function send(self, submission)
  local awake = self.world:awake()
  local function again()
    local timer = uv.new_timer()
    timer:start(AGAIN_MS, 0, function()
      timer:close()
      send(self, submission)
    end)
  end
  if #awake == 0 then return again() end
  submission.tries = submission.tries + 1
  local body = json.encode(builds.request { pipeline = submission.pipeline, priority = submission.priority,
    customerId = "c" .. submission.number % 5, configurationName = submission.key })
  http.send(awake[math.random(#awake)].server.address, "POST", "/builds",
    { body = body, headers = { ["Idempotency-Key"] = submission.key }, seconds = 4 }, function(answer)
      if answer and answer.status == 202 then
        submission.id = json.decode(answer.body).jobId
        self.open = self.open - 1
      elseif answer and answer.status ~= 503 then
        self.refused[#self.refused + 1] = ("POST /builds: %d %s"):format(answer.status, answer.body)
        self.open = self.open - 1
      else
        again()
      end
    end)
end

--- One more build.
function Load:submit()
  local number = #self.submissions + 1
  local submission = { number = number, key = "chaos-" .. number, pipeline = pick(self),
    priority = self.random(10) == 1 and 2 or 1, tries = 0 }
  self.submissions[number] = submission
  self.open = self.open + 1
  send(self, submission)
end

--- Submits `rate` builds a second until `stop`.
---@param rate number
function Load:start(rate)
  self.timer = uv.new_timer()
  self.timer:start(0, math.floor(1000 / rate), function() self:submit() end)
end

function Load:stop() self.timer:close() end

--- The id of some accepted build, or nil.
---@return string|nil
function Load:some_id()
  for _ = 1, 10 do
    local submission = self.submissions[self.random(#self.submissions)]
    if submission and submission.id then return submission.id end
  end
end

return Load
