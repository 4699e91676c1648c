-- Admission by limits. Nothing is limited until a table says so: copy this file to ScriptDirectory/policies, fill in.

local CUSTOMER <const> = { -- for each customer
  -- pending = 100,          -- builds that wait
  -- running = 10,           -- builds that run: what comes beyond is taken with the lowest priority
  -- today = 200,            -- enqueued since midnight UTC
  -- month = 2000,           -- enqueued since the first of the month UTC
}
local TIERS <const> = { -- by tier, all customers together: { today =, month = }
  -- standard = { today = 500, month = 5000 },
}
local DISK <const> = {
  -- spareMegabytes = 2000,  -- to be free beyond DiskReserveMegabytes and what a build of the pipeline is known to need
}

local DAY <const> = 86400

-- Which facts the limits need: without a limit none is looked up.
local function needed()
  local names = {}
  if CUSTOMER.pending or CUSTOMER.running then names[#names + 1] = "customer" end
  if CUSTOMER.today or CUSTOMER.month then names[#names + 1] = "customerUsage" end
  if next(TIERS) then names[#names + 1] = "tierUsage" end
  if DISK.spareMegabytes then names[#names + 1] = "disk" end
  return names
end

local function seconds_to_midnight(now) return DAY - now // 1000000 % DAY end

local function seconds_to_month(now)
  local seconds = now // 1000000
  local date = os.date("!*t", seconds)
  -- The 1st is at most 31 days away: the first day with another month.
  for days = 1, 31 do
    local later = seconds - seconds % DAY + days * DAY
    if os.date("!*t", later).month ~= date.month then return later - seconds end
  end
end

local function refuse(title, detail, seconds)
  return { action = "refuse", status = 429, title = title, detail = detail, retryAfter = math.ceil(seconds) }
end

local function over_usage(usage, limits, whose, now)
  if limits.today and usage.today >= limits.today then
    return refuse("Daily quota used up", ("%s may enqueue %d builds a day (UTC)."):format(whose, limits.today),
      seconds_to_midnight(now))
  end
  if limits.month and usage.month >= limits.month then
    return refuse("Monthly quota used up", ("%s may enqueue %d builds a month (UTC)."):format(whose, limits.month),
      seconds_to_month(now))
  end
  return nil
end

local function over_disk(disk)
  if not (DISK.spareMegabytes and disk) then return nil end
  local predicted = disk.predictedMegabytes or 0
  if disk.freeMegabytes >= disk.reserveMegabytes + DISK.spareMegabytes + predicted then return nil end
  local detail = "%d MB are free; a build of this pipeline may need %d MB, beside what is to stay free."
  return refuse("Disk space is short", detail:format(disk.freeMegabytes, predicted), 60)
end

return {
  facts = { admission = needed() },

  ---@param build buildq.PolicyBuild
  ---@param facts buildq.PolicyFacts
  ---@return buildq.AdmissionAnswer
  admission = function(build, facts)
    if CUSTOMER.pending and facts.customer.pending >= CUSTOMER.pending then
      return refuse("Too many builds waiting", ("A customer may have %d builds waiting."):format(CUSTOMER.pending), 60)
    end
    local limited = CUSTOMER.today or CUSTOMER.month
    local refusal = limited and over_usage(facts.customerUsage, CUSTOMER, "A customer", facts.now)
    local tier = TIERS[build.tier]
    refusal = refusal or tier and over_usage(facts.tierUsage, tier, ("The tier %s"):format(build.tier), facts.now)
    refusal = refusal or over_disk(facts.disk)
    if refusal then return refusal end
    if CUSTOMER.running and facts.customer.running >= CUSTOMER.running then
      local reason = ("%d builds of this customer run already"):format(facts.customer.running)
      return { action = "lower", priority = 0, reason = reason }
    end
    return { action = "accept" }
  end,
}
