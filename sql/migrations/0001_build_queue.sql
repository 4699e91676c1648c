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

-- A table of that name with other columns is somebody else's: better to stop here than to work on it.
do $$
declare
  wanted record;
  found text;
begin
  for wanted in
    select * from (values
      ('id', 'uuid'), ('customer_id', 'character varying'), ('customer_name', 'character varying'),
      ('customer_email', 'character varying'), ('configuration_name', 'character varying'), ('manifest_path', 'text'),
      ('tier', 'character varying'), ('architecture', 'character varying'), ('cloud_provider', 'character varying'),
      ('status', 'character varying'), ('priority', 'integer'), ('progress_percent', 'integer'),
      ('current_step', 'text'), ('output_path', 'text'), ('image_url', 'text'), ('download_url', 'text'),
      ('error_message', 'text'), ('retry_count', 'integer'), ('enqueued_at', 'timestamp with time zone'),
      ('started_at', 'timestamp with time zone'), ('completed_at', 'timestamp with time zone'),
      ('updated_at', 'timestamp with time zone'), ('build_duration_seconds', 'double precision')) as t(name, type)
  loop
    select data_type into found from information_schema.columns
      where table_schema = current_schema() and table_name = 'build_queue' and column_name = wanted.name;
    if found is distinct from wanted.type then
      raise exception 'the table build_queue is no table of the build queue: its column % is %, not %',
        wanted.name, coalesce('of type ' || found, 'missing'), wanted.type
        using hint = 'name another database in BuildQueue.ConnectionString';
    end if;
  end loop;
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
