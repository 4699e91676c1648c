-- oldest program: 1
-- What the queue keeps beside the original columns: time, order, attempts, nodes, history, what mails are owed.

-- The one source of time: one moment for a whole statement. Sessions of tests and rehearsals set buildq.now, or shift
-- the clock by buildq.clock_offset (an interval).
create function buildq_now() returns timestamptz language sql stable parallel safe as $$
  select coalesce(nullif(current_setting('buildq.now', true), '')::timestamptz,
    statement_timestamp() + coalesce(nullif(current_setting('buildq.clock_offset', true), ''), '0')::interval)
$$;

-- RFC 3339 in UTC with microseconds, the form of every time in the API.
create function buildq_time(at timestamptz) returns text language sql stable parallel safe as $$
  select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- Seconds from `since` to now, never negative. Null when it never began, or has no real time.
create function buildq_seconds_since(since timestamptz) returns double precision language sql stable parallel safe as $$
  select case when isfinite(since) then greatest(0, extract(epoch from buildq_now() - since))::double precision end
$$;

-- Claims go by one number, smallest first: higher priority, then earlier. Microseconds since 1970 take less than 58
-- bits up to the year 9999; what a hand writes outside of that is drawn to the nearer end.
create function buildq_claim_key(priority integer, enqueued_at timestamptz) returns bigint
  language sql immutable parallel safe as $$
  select ((3 - priority)::bigint << 58) + (extract(epoch from
    greatest(timestamptz '1970-01-01Z', least(timestamptz '9999-01-01Z', enqueued_at))) * 1000000)::bigint
$$;

-- One row: what holds for the whole cluster.
create table queue_control (
  only_row          boolean primary key default true check (only_row),
  paused            boolean not null default false,
  pause_reason      text,
  paused_at         timestamptz,
  notifications     boolean not null default true, -- false: no outbox rows are written
  retention_allowed boolean not null default true, -- false: an adopted table waits for `buildq retention confirm`
  adopted_builds    bigint not null default 0      -- ended rows of the old service when it was adopted
);
insert into queue_control default values;

-- Manifests as they were when their build was enqueued. Identical ones are stored once.
create table build_manifests (
  hash       text primary key, -- SHA-256 of content, hexadecimal
  content    jsonb not null,
  used_at    timestamptz not null default buildq_now() -- last enqueued, within half a day: purge_manifests looks at it
);

alter table build_queue
  add column claim_key           bigint not null default 0,  -- 0: the trigger sets it
  add column attempt             integer not null default 0, -- claims so far: the fencing token, never reset
  add column node_id             uuid,                       -- who runs it, while it is building
  add column run_after           timestamptz,                -- a retry is not due before
  add column generation          text,                       -- the scripts of the attempt, or of the one to come
  add column pipeline            text not null default 'honua-server',
  add column round               integer not null default 0, -- rises with each manual retry
  add column event_seq           integer not null default 0, -- number of the last row in build_events
  add column metadata            jsonb not null default '{}',
  add column manifest_hash       text,                       -- null: came by plain SQL and was never claimed
  add column manifest_trusted    boolean not null default true, -- may hold commands and local paths
  add column cancel_requested_at timestamptz,
  add column cancel_reason       text,
  add column lost_nodes          integer not null default 0, -- nodes lost in a row
  add column adopted             boolean not null default true; -- came from the old service
alter table build_queue alter column adopted set default false;

-- The one index that claims use.
create index build_queue_claim on build_queue (claim_key) where status = 'pending';
-- What a node runs; small, because few builds run at a time.
create index build_queue_building on build_queue (node_id) where status = 'building';
-- Whose manifest is still needed. The hash is set once, so this costs an update nothing.
create index build_queue_manifest on build_queue (manifest_hash) where manifest_hash is not null;

-- Servers. A node is alive while it says so within its lease.
create table nodes (
  id             uuid primary key,
  name           text not null,
  url            text not null,                  -- where its files can be asked for
  version        text not null,
  slots          integer not null,
  lease_seconds  integer not null,
  labels         jsonb not null default '{}',
  state          text not null default 'live' check (state in ('live', 'draining', 'stopped', 'dead')),
  started_at     timestamptz not null default buildq_now(),
  heartbeat_at   timestamptz not null default buildq_now(),
  unbroken_since timestamptz not null default buildq_now(), -- no heartbeat was late since
  ended_at       timestamptz
);

-- One row for each claim of a build.
create table build_attempts (
  build_id      uuid not null,
  attempt       integer not null,
  node_id       uuid not null,
  generation    text,
  started_at    timestamptz not null,
  ended_at      timestamptz,
  outcome       text, -- success, failed, timedout, cancelled, requeued, lost; null while it runs
  error_message text,
  error_kind    text,
  step          text,
  progress      integer not null default 0,
  artifacts     jsonb not null default '[]',
  log_tail      text,
  primary key (build_id, attempt)
);

-- History, append-only. No foreign key: it outlives the builds.
create table build_events (
  build_id uuid not null,
  seq      integer not null, -- 1, 2, 3 … of this build, without a gap
  at       timestamptz not null,
  type     text not null,
  attempt  integer not null,
  round    integer not null,
  data     jsonb not null default '{}',
  primary key (build_id, seq)
);
create index build_events_at on build_events (at);

-- What customers are owed: one row for each event, whatever happens afterwards.
create table outbox (
  id         bigint generated always as identity primary key,
  build_id   uuid not null,
  event      text not null,
  round      integer not null,
  attempt    integer not null, -- 0 where the event can't repeat within a round
  data       jsonb not null default '{}',
  state      text not null default 'pending' check (state in ('pending', 'expanded', 'skipped')),
  created_at timestamptz not null default buildq_now(),
  unique (build_id, event, round, attempt)
);
create index outbox_pending on outbox (id) where state = 'pending';

-- Accepted answers, so that a repeated request gets the same one.
create table idempotency_keys (
  key          text primary key,
  request_hash text not null,
  build_id     uuid not null,
  answer       jsonb not null,
  created_at   timestamptz not null default buildq_now()
);
create index idempotency_keys_created_at on idempotency_keys (created_at);

-- Scripts of every generation that a build was started on. Identical files are stored once.
create table script_sources (
  hash    text primary key, -- SHA-256 of content, hexadecimal
  content text not null
);
create table script_generations (
  hash       text primary key,
  created_at timestamptz not null default buildq_now(),
  used_at    timestamptz not null default buildq_now() -- last stored: servers do so at start, at a reload and daily
);
create table script_generation_files (
  generation  text not null references script_generations on delete cascade,
  path        text not null,
  source_hash text not null references script_sources,
  primary key (generation, path)
);
create index script_generation_files_source on script_generation_files (source_hash);

-- Adoption of the old service's rows, before any trigger of ours exists: nobody gets a mail for it. A build whose
-- retries were used up would stay pending for ever. Running builds died with the old service.
with changed as (
  update build_queue set status = 'failed', completed_at = buildq_now(), event_seq = 1,
      error_message = coalesce(error_message, 'all retries were used up under the previous service')
    where status = 'pending'
      and retry_count >= coalesce(nullif(current_setting('buildq.max_retry_attempts', true), ''), '3')::integer
    returning id, status
)
insert into build_events (build_id, seq, at, type, attempt, round, data)
select id, 1, buildq_now(), status, 0, 0, '{"adopted": true}' from changed;

with changed as (
  update build_queue set status = 'pending', progress_percent = 0, current_step = null, started_at = null, event_seq = 1
    where status = 'building'
    returning id
)
insert into build_events (build_id, seq, at, type, attempt, round, data)
select id, 1, buildq_now(), 'requeued', 0, 0, '{"adopted": true}' from changed;

update build_queue set claim_key = buildq_claim_key(priority, enqueued_at) where status = 'pending';

-- Nothing of the old history is deleted before somebody has seen how much it is.
update queue_control set
  adopted_builds = (select count(*) from build_queue where status not in ('pending', 'building')),
  retention_allowed = not exists (select from build_queue where status not in ('pending', 'building'));
