local json = require "spec.support.json"
local request = require "request"

local function body(changes)
  local result = {
    customerId = "c-1", customerName = "ACME", customerEmail = "ops@acme.example", configurationName = "default",
    manifestPath = "order.json",
  }
  for name, value in pairs(changes or {}) do
    if value == json.null then value = nil end
    result[name] = value
  end
  return result
end

local function fault_paths(changes)
  local submission, faults = request.submission(body(changes), json.encode)
  assert.is_nil(submission)
  local paths = {}
  for index, fault in ipairs(faults) do paths[index] = fault.path end
  return table.concat(paths, " ")
end

describe("request.submission", function()
  it("takes names in any case, ignores unknown ones, and fills in the defaults", function()
    local given = body { CustomerName = "Other", customerName = json.null, somethingElse = 5 }
    local submission = assert(request.submission(given, json.encode))
    assert.equal("Other", submission.customerName)
    assert.equal(1, submission.priority)
    assert.same({}, submission.metadata)
  end)

  it("requires what the row can't be without", function()
    for _, name in ipairs { "customerId", "customerName", "customerEmail", "configurationName", "manifestPath" } do
      assert.equal("$." .. name, fault_paths { [name] = json.null })
    end
  end)

  it("names all faults at once", function()
    assert.equal("$.customerEmail $.customerId $.metadata $.priority $.tier",
      fault_paths { customerEmail = "x", customerId = 5, metadata = "x", priority = 4, tier = ("x"):rep(51) })
  end)

  it("wants either a manifest or its path", function()
    assert.equal("$.manifest", fault_paths { manifest = {} })
    assert.equal("$.manifest", fault_paths { manifest = "text", manifestPath = json.null })
    assert.is_table((request.submission(body { manifest = {}, manifestPath = json.null }, json.encode)))
  end)

  for given, number in pairs { low = 0, Normal = 1, HIGH = 2, critical = 3, ["2"] = 2, [0] = 0, [3] = 3 } do
    it("takes the priority " .. tostring(given), function()
      assert.equal(number, request.submission(body { priority = given }, json.encode).priority)
    end)
  end

  for _, given in ipairs { -1, 4, 1.5, "urgent", "", "01", true, {} } do
    it("refuses the priority " .. json.encode(given), function()
      assert.equal("$.priority", fault_paths { priority = given })
    end)
  end

  it("takes metadata up to 8192 bytes as JSON", function()
    local function of(bytes) return { k = ("x"):rep(bytes - #'{"k":""}') } end
    assert.is_table((request.submission(body { metadata = of(8192) }, json.encode)))
    assert.equal("$.metadata", fault_paths { metadata = of(8193) })
  end)

  it("counts lengths as the columns do", function()
    assert.is_table((request.submission(body { customerName = ("ü"):rep(255) }, json.encode)))
    assert.equal("$.customerName", fault_paths { customerName = ("ü"):rep(256) })
  end)
end)

describe("an e-mail address", function()
  for _, address in ipairs { "a@b", "first.last+tag@mail.example.org", "ü@exämple.org", "o'neil@example.org" } do
    it("may be " .. address, function() assert.is_true(request.is_email(address)) end)
  end
  for _, address in ipairs {
    "a", "@b", "a@", "a@b@c", "a b@c", "a@b\r\nBcc: x@y", "a@-b", "a@b..c", ".a@b", "<a@b>", "a,b@c", "a@b;c@d",
    ("x"):rep(65) .. "@b",
  } do
    it("is never " .. json.encode(address), function() assert.is_false(request.is_email(address)) end)
  end
end)

describe("request.query", function()
  local rules = {
    limit = { type = "integer", min = 1, max = 500 }, status = { type = "status" }, follow = { type = "boolean" },
    customerId = { type = "text" },
  }

  it("reads values, in names of any case", function()
    assert.same({ limit = 5, status = "failed", follow = true },
      (request.query({ LIMIT = "5", status = "Failed", follow = "1", other = "x" }, rules)))
    assert.is_true(request.query({ follow = "" }, rules).follow)
    assert.same({ follow = false }, (request.query({ follow = "0", customerId = "" }, rules)))
  end)

  for name, value in pairs { limit = "501", status = "done", follow = "maybe", customerId = "a\xff" } do
    it("refuses a bad " .. name, function()
      local values, faults = request.query({ [name] = value }, rules)
      assert.is_nil(values)
      assert.equal("?" .. name, faults[1].path)
    end)
  end

  for _, text in ipairs { "0", "-1", "1e2", "0x10", "5 ", "99999999999999999999", "9999999999999999999", "1.0" } do
    it("refuses the limit " .. text, function()
      assert.is_nil((request.query({ limit = text }, rules)))
    end)
  end
end)

describe("an Idempotency-Key", function()
  it("is visible ASCII of at most 255 bytes", function()
    assert.equal("k-1", (request.idempotency_key { ["idempotency-key"] = "k-1" }))
    for _, bad in ipairs { "", "a b", "ü", ("x"):rep(256) } do
      local key, faults = request.idempotency_key { ["idempotency-key"] = bad }
      assert.is_nil(key)
      assert.equal(1, #faults)
    end
    local key, faults = request.idempotency_key {}
    assert.is_nil(key)
    assert.is_nil(faults)
  end)
end)
