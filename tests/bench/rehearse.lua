-- Builds a second that `buildq rehearse` replays, from a file, under the shipped policies and another one.
local socket = require "socket"
local process = require "spec.support.process"
local Server = require "spec.support.server"
local support = require "tests.bench.support"

local BUILDS <const>, AIM_PER_SECOND <const>, ROUNDS <const> = 100000, 10000, 5

return function(report)
  local server = Server.new { database = false }
  local history = server.directory .. "/history.jsonl"
  process.check { "sh", "-c", ("lua5.4 tests/bench/history.lua %d > %s"):format(BUILDS, history) }
  for _, policy in ipairs { "aging", "fair", "smart" } do
    local rates = {}
    for round = 1, ROUNDS do
      local file = ("scripts/policies/%s.lua"):format(policy)
      local began = socket.gettime()
      local answer = server:command { "rehearse", file, "--from", history, "--json" }
      assert(answer.code == 0, answer.errors)
      rates[round] = BUILDS / (socket.gettime() - began)
    end
    local rate = support.median(rates)
    report { group = "rehearsal of 100,000 builds", name = policy, value = rate, unit = "builds/s", beside = "10 s",
      limit = AIM_PER_SECOND, ratio = rate / AIM_PER_SECOND, aim = 1, better = "higher" }
  end
end
