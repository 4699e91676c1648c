-- oldest program: 1
-- The table of the original service, exactly. On a database of that service everything is there already and stays as it
-- is: whatever is missing is added, nothing is changed.

create table if not exists build_queue (
  id                     uuid primary key default gen_random_uuid(),
  customer_id            varchar(255) not null,
  customer_name          varchar(255) not null,
  customer_email         varchar(255) not null,
  configuration_name     varchar(255) not null,
  manifest_path          text not null,
  tier                   varchar(50) not null,
  architecture           varchar(50) not null,
  cloud_provider         varchar(50) not null,
  status                 varchar(50) not null default 'pending',
  priority               integer not null default 1,
  progress_percent       integer not null default 0,
  current_step           text,
  output_path            text,
  image_url              text,
  download_url           text,
  error_message          text,
  retry_count            integer not null default 0,
  enqueued_at            timestamptz not null default now(),
  started_at             timestamptz,
  completed_at           timestamptz,
  updated_at             timestamptz not null default now(),
  build_duration_seconds double precision
);

-- A table of that name with other columns is somebody else's: better to stop here than to work on it. Whatever else an
-- old writer leans on (keys, defaults, NOT NULL) is completed.
do $$
declare
  wanted record;
  found record;
begin
  for wanted in
    select * from (values
      ('id', 'uuid', 'gen_random_uuid()', true), ('customer_id', 'character varying(255)', null, true),
      ('customer_name', 'character varying(255)', null, true), ('customer_email', 'character varying(255)', null, true),
      ('configuration_name', 'character varying(255)', null, true), ('manifest_path', 'text', null, true),
      ('tier', 'character varying(50)', null, true), ('architecture', 'character varying(50)', null, true),
      ('cloud_provider', 'character varying(50)', null, true), ('status', 'character varying(50)', '''pending''', true),
      ('priority', 'integer', '1', true), ('progress_percent', 'integer', '0', true),
      ('current_step', 'text', null, false),
      ('output_path', 'text', null, false), ('image_url', 'text', null, false), ('download_url', 'text', null, false),
      ('error_message', 'text', null, false), ('retry_count', 'integer', '0', true),
      ('enqueued_at', 'timestamp with time zone', 'now()', true),
      ('started_at', 'timestamp with time zone', null, false),
      ('completed_at', 'timestamp with time zone', null, false),
      ('updated_at', 'timestamp with time zone', 'now()', true),
      ('build_duration_seconds', 'double precision', null, false)) as t(name, type, value, required)
  loop
    select format_type(a.atttypid, a.atttypmod) as type, a.atthasdef, a.attnotnull into found from pg_attribute a
      where a.attrelid = 'build_queue'::regclass and a.attname = wanted.name and not a.attisdropped;
    if found.type is distinct from wanted.type then
      raise exception 'the table build_queue is not that of the build queue: its column % is %, not %',
        wanted.name, coalesce('of type ' || found.type, 'missing'), wanted.type
        using hint = 'name another database in BuildQueue.ConnectionString';
    end if;
    if wanted.value is not null and not found.atthasdef then
      execute format('alter table build_queue alter column %I set default %s', wanted.name, wanted.value);
    end if;
    if wanted.required and not found.attnotnull then
      execute format('alter table build_queue alter column %I set not null', wanted.name);
    end if;
  end loop;
  if not exists (select from pg_constraint where conrelid = 'build_queue'::regclass and contype = 'p') then
    alter table build_queue add primary key (id);
  end if;
end $$;

-- The four bounds that every writer, also an old one, must keep.
do $$
declare
  wanted record;
begin
  for wanted in
    select * from (values
      ('chk_status', $c$status in ('pending', 'building', 'success', 'failed', 'cancelled', 'timedout')$c$),
      ('chk_priority', 'priority between 0 and 3'),
      ('chk_progress', 'progress_percent between 0 and 100'),
      ('chk_retry_count', 'retry_count >= 0')) as t(name, condition)
  loop
    if not exists (select from pg_constraint
                   where conrelid = 'build_queue'::regclass and conname = wanted.name) then
      execute format('alter table build_queue add constraint %I check (%s)', wanted.name, wanted.condition);
    end if;
  end loop;
end $$;

create index if not exists idx_build_queue_status on build_queue (status);
create index if not exists idx_build_queue_customer on build_queue (customer_id);
create index if not exists idx_build_queue_priority_enqueued on build_queue (priority desc, enqueued_at asc)
  where status = 'pending';
create index if not exists idx_build_queue_enqueued_at on build_queue (enqueued_at);
create index if not exists idx_build_queue_completed_at on build_queue (completed_at) where completed_at is not null;

-- Keeps updated_at true for writers that don't set it.
create or replace function update_build_queue_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at = now();
  return new;
end $$;

-- Our own statements set the column themselves: the call is spared for them (it costs a tenth of an update).
create or replace trigger trigger_update_build_queue_updated_at
  before update on build_queue
  for each row when (new.updated_at is not distinct from old.updated_at)
  execute function update_build_queue_updated_at();
