-- oldest program: 1
-- Builds that were archived and come back: their rows, attempts and history as they were. Nobody gets a mail for them.

alter table build_queue add column restored_at timestamptz; -- retention and history count from here; null for most

-- Triggers make history and owe mails of what happens; what is restored has happened long ago.
create or replace trigger buildq_before_insert before insert on build_queue
  for each row when (new.restored_at is null and new.told = 0) execute function buildq_before_insert();
create or replace trigger buildq_after_insert after insert on build_queue
  for each row when (new.restored_at is null and new.told = 0) execute function buildq_after_insert();

-- Inserts one row of a table from its JSON: of the columns that both have, so that an archive of another version fits.
create function buildq_put(target regclass, value jsonb) returns boolean language plpgsql as $$
declare
  names text;
  put integer;
begin
  select string_agg(quote_ident(attname), ', ') into names from pg_attribute
    where attrelid = target and attnum > 0 and not attisdropped and attgenerated = '' and value ? attname;
  execute format('insert into %1$s (%2$s) select %2$s from jsonb_populate_record(null::%1$s, $1) on conflict do nothing',
    target, names) using value;
  get diagnostics put = row_count;
  return put > 0;
end $$;

-- One line of an archive: a build with all that belongs to it, or nothing when it is there already.
create function buildq_restore(line jsonb) returns boolean language plpgsql as $$
declare
  part jsonb;
begin
  if line -> 'build' ->> 'status' not in ('success', 'failed', 'cancelled', 'timedout') then
    raise exception 'the build % has not ended', line -> 'build' ->> 'id';
  end if;
  if line -> 'manifest' <> 'null' then perform buildq_put('build_manifests', line -> 'manifest'); end if;
  if not buildq_put('build_queue', (line -> 'build') || jsonb_build_object('restored_at', buildq_now())) then
    return false;
  end if;
  for part in select * from jsonb_array_elements(line -> 'attempts') loop
    perform buildq_put('build_attempts', part);
  end loop;
  for part in select * from jsonb_array_elements(line -> 'events') loop
    perform buildq_put('build_events', part);
  end loop;
  return true;
end $$;
