-- What is left of a run: all that the checker reads, as one table that can be written as JSON.
local uv = require "luv"
local process = require "spec.support.process"

local history = {}

-- Who wrote which change of a build: the session's application_name is the server's. Rows are written in the
-- transaction that they tell of.
history.AUDIT = [[
  create table chaos_writes (id bigserial, at timestamptz, writer text, build_id uuid, old_status text, new_status text,
    old_attempt integer, new_attempt integer, node_id uuid, node_state text);
  create function chaos_note() returns trigger language plpgsql as $$
  begin
    insert into chaos_writes (at, writer, build_id, old_status, new_status, old_attempt, new_attempt, node_id,
      node_state)
    values (clock_timestamp(), current_setting('application_name'), new.id, old.status, new.status, old.attempt,
      new.attempt, old.node_id, (select state from nodes where id = old.node_id));
    return null;
  end $$;
  create trigger chaos_note after update on build_queue for each row
    when (old.status = 'building' and (new.status <> old.status or new.progress_percent <> old.progress_percent))
    execute function chaos_note();
]]

local QUERIES <const> = {
  builds = [[select id, status, attempt, round, claim_key as key, event_seq as seq, pipeline, output_path as output
    from build_queue]],
  events = [[select build_id as build, seq, extract(epoch from at) as at, type, attempt, round, data ->> 'node' as node,
    extract(epoch from (data ->> 'nextAttemptAt')::timestamptz) as due from build_events order by build_id, seq]],
  attempts = [[select build_id as build, attempt, node_id as node, outcome from build_attempts]],
  outbox = [[select build_id as build, event, round, attempt, state from outbox]],
  -- Tries of which nobody knows whether they have sent the mail: its server ended, or had no answer.
  deliveries = [[select o.build_id as build, o.event, o.round, o.attempt, d.recipient, d.state, d.message_id as mail,
    (select count(*) from jsonb_array_elements(d.attempts) as a where a ->> 'outcome' in ('lost', 'retry')) as unknown
    from deliveries d join outbox o on o.id = d.outbox_id]],
  nodes = [[select id, state from nodes]],
  writes = [[select extract(epoch from at) as at, writer, build_id as build, old_status as old, new_status as new,
    old_attempt as attempt, new_attempt as "newAttempt", node_id as node, node_state as "nodeState" from chaos_writes
    order by id]],
}

-- What servers said of themselves: which node each was, and which attempts it began.
local function read_logs(world, record)
  record.starts, record.joins = {}, {}
  for _, node in ipairs(world.nodes) do
    local log = node.server:log()
    for build, attempt in log:gmatch "attempt started build=(%S+) attempt=(%d+)" do
      record.starts[#record.starts + 1] = { server = node.number, build = build, attempt = tonumber(attempt) }
    end
    for id in log:gmatch "joined the cluster node=(%S+)" do
      record.joins[#record.joins + 1] = { server = node.number, node = id }
    end
  end
end

--- Programs that run in this process namespace besides PostgreSQL, the mail server, servers and ourselves. (A zombie
--- has no command line: its parent is about to fetch it.)
---@return string[] command lines
function history.strangers()
  local found = {}
  for name in uv.fs_scandir_next, assert(uv.fs_scandir "/proc") do
    local line = name:find "^%d+$" and process.read("/proc/" .. name .. "/cmdline"):gsub("%z", " "):gsub(" $", "")
    if line and line ~= "" and not line:find "postgres" and not line:find "buildq serve"
      and not line:find "tests/chaos/" and not line:find "smtp_sink.py" then
      found[#found + 1] = line
    end
  end
  return found
end

--- Directories of builds that are left in a server's workspaces, and those of attempts in its output that no build has
--- committed.
---@param world World
---@param committed table<string, integer> attempt by build, of successful ones
---@return string[]
function history.leftovers(world, committed)
  local found = {}
  local function each(path, fn)
    local scan = uv.fs_scandir(path)
    for name in uv.fs_scandir_next, scan do fn(name) end
  end
  for _, node in ipairs(world.nodes) do
    local own = ("%s/%d"):format(world.disk, node.number)
    each(own .. "/builds", function(name) found[#found + 1] = ("workspace %d/%s"):format(node.number, name) end)
    each(own .. "/output", function(id)
      each(("%s/output/%s"):format(own, id), function(name)
        if name ~= "attempt-" .. tostring(committed[id]) then
          found[#found + 1] = ("output %d/%s/%s"):format(node.number, id, name)
        end
      end)
    end)
  end
  return found
end

--- Reads it all; the servers may run or not.
---@param world World
---@param load Load
---@return table record
function history.read(world, load)
  local record = { submissions = {}, refused = load.refused, ends = world.faults, lease = world.lease }
  for i, each in ipairs(load.submissions) do record.submissions[i] = { key = each.key, id = each.id } end
  local server = world.nodes[1].server
  for name, query in pairs(QUERIES) do record[name] = server:rows(query) end
  read_logs(world, record)
  record.mails = {}
  for i, mail in ipairs(world.mail:mails()) do record.mails[i] = { id = mail.id, recipient = mail.recipients[1] } end
  return record
end

return history
