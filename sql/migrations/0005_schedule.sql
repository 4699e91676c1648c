-- oldest program: 1
-- Schedules: builds that enqueue themselves. Each occurrence of a schedule is one row, taken under the schedule's lock,
-- so that it either ran once in the whole cluster or has a reason why it didn't.

-- What the generation's schedule policy says, as the server that loaded it last has told, and how far it has come.
create table schedules (
  name         text primary key,
  definition   jsonb not null,              -- {cron, zone, missed, fields, request}; fields: see buildq_occurrences
  next_at      timestamptz,                 -- the first occurrence without a row; null: none will come
  paused       boolean not null default false,
  pause_reason text,
  paused_at    timestamptz,
  removed_at   timestamptz                  -- no policy names it any more; a pause and the history stay
);
create index schedules_next on schedules (next_at) where next_at is not null;

create table schedule_runs (
  name        text not null,
  occurrence  timestamptz not null,
  through     timestamptz not null,         -- the last occurrence that this row stands for: of skipped ones, several
  occurrences integer not null default 1,
  manual      boolean not null default false, -- asked for by hand
  outcome     text not null check (outcome in ('claimed', 'enqueued', 'refused', 'skipped')),
  reason      text,                         -- why there is no build
  build_id    uuid,                         -- chosen with the claim: a repeat after a crash is the same build
  node_id     uuid,                         -- who enqueues it
  claimed_at  timestamptz not null default buildq_now(),
  primary key (name, occurrence)
);
create index schedule_runs_claimed on schedule_runs (claimed_at) where outcome = 'claimed';
create index schedule_runs_occurrence on schedule_runs (occurrence);

-- The moment that a clock on the wall of `zone` first shows `at_local`, or the first moment after it where the clock was
-- put forward over it. PostgreSQL itself takes the second of two moments, and shifts what was skipped by the gap.
create function buildq_local_moment(at_local timestamp, zone text) returns timestamptz language plpgsql stable as $$
declare
  moment timestamptz := at_local at time zone zone;
  shown timestamp := moment at time zone zone;
  before timestamptz := moment - interval '24 hours';
  earlier timestamptz;
begin
  if shown <> at_local then
    return (select min(t) from generate_series(moment - (shown - at_local), moment, interval '1 minute') t
            where t at time zone zone >= at_local);
  end if;
  earlier := (at_local - ((before at time zone zone) - (before at time zone 'UTC'))) at time zone 'UTC';
  if earlier < moment and earlier at time zone zone = at_local then return earlier; end if;
  return moment;
end $$;

-- The moments of one local day. `wild`: every hour is named, so the expression follows elapsed time and each moment that
-- shows a matching minute counts; otherwise each time of the day comes once, as with cron(8).
create function buildq_day_occurrences(fields jsonb, zone text, day date, after timestamptz)
  returns setof timestamptz language plpgsql stable as $$
begin
  if (fields ->> 'wild')::boolean then
    return query
      select t from generate_series(
          greatest(buildq_local_moment(day::timestamp, zone), date_trunc('minute', after, 'UTC')),
          buildq_local_moment((day + 1)::timestamp, zone), interval '1 minute') t,
        lateral (select t at time zone zone as shown) s
      where shown::date = day and fields -> 'minutes' @> to_jsonb(extract(minute from shown)::integer)
        and fields -> 'hours' @> to_jsonb(extract(hour from shown)::integer)
      order by t;
  else
    return query
      select distinct buildq_local_moment(day + make_interval(hours => h::integer, mins => m::integer), zone) as t
      from jsonb_array_elements_text(fields -> 'hours') h, jsonb_array_elements_text(fields -> 'minutes') m
      order by t;
  end if;
end $$;

-- The occurrences after `after` up to `until` (null: without end), `most` at most. `fields` is what scripts/lib/cron.lua
-- makes of an expression: {minutes, hours, days, months, weekdays: lists, either, wild}; `either`: the day of the month
-- or of the week is enough. Looks 41 years ahead: 29 February on a given day of the week can be 40 years away.
create function buildq_occurrences(fields jsonb, zone text, after timestamptz, until timestamptz, most integer)
  returns setof timestamptz language plpgsql stable as $$
declare
  first date := (after at time zone zone)::date - 1;
  month date := date_trunc('month', first);
  day date;
  moment timestamptz;
  last timestamptz := after;
  found integer := 0;
begin
  while month < first + interval '41 years' and (until is null or month <= (until at time zone zone)::date) loop
    if fields -> 'months' @> to_jsonb(extract(month from month)::integer) then
      for day in
        select d::date from generate_series(greatest(month, first)::timestamp, month + interval '1 month - 1 day',
                                            interval '1 day') d,
          lateral (select fields -> 'days' @> to_jsonb(extract(day from d)::integer) as in_month,
                          fields -> 'weekdays' @> to_jsonb(extract(dow from d)::integer) as in_week) s
        where case when (fields ->> 'either')::boolean then in_month or in_week else in_month and in_week end
        order by d
      loop
        for moment in select * from buildq_day_occurrences(fields, zone, day, last) loop
          if found >= most or moment > until then return; end if;
          if moment > last then
            return next moment;
            found := found + 1;
            last := moment;
          end if;
        end loop;
      end loop;
    end if;
    month := month + interval '1 month';
  end loop;
end $$;

create function buildq_next_occurrence(definition jsonb, after timestamptz) returns timestamptz language sql stable as $$
  select buildq_occurrences(definition -> 'fields', definition ->> 'zone', after, null, 1)
$$;

-- One row for occurrences that won't run, with the reason; answers it for the log, or null when there was nothing to
-- record. At most 10,000 at once.
create function buildq_schedule_skip(s schedules, until timestamptz, why text) returns jsonb language plpgsql as $$
declare
  skipped record;
begin
  select count(*) as count, min(t) as first, max(t) as last into skipped
    from buildq_occurrences(s.definition -> 'fields', s.definition ->> 'zone', s.next_at - interval '1 microsecond',
                            until, 10000) t;
  if skipped.count = 0 then return null; end if;
  insert into schedule_runs (name, occurrence, through, occurrences, outcome, reason)
    values (s.name, skipped.first, skipped.last, skipped.count, 'skipped', why)
    on conflict (name, occurrence) do nothing;
  update schedules set next_at = buildq_next_occurrence(s.definition, skipped.last) where name = s.name;
  return jsonb_build_object('name', s.name, 'occurrence', buildq_time(skipped.first),
    'through', buildq_time(skipped.last), 'occurrences', skipped.count, 'reason', why);
end $$;

-- Takes over what a generation's policy says: [{name, cron, zone, missed, fields, request}]. A new one, and one with
-- other times, begins now: what was due and not taken yet is recorded as skipped. Answers {faults: [{name, message}],
-- skipped: […]}. Servers that load at the same time take turns.
create function buildq_schedule_sync(list jsonb) returns jsonb language plpgsql as $$
declare
  item jsonb;
  known schedules;
  faults jsonb := '[]';
  skipped jsonb := '[]';
  why text;
begin
  perform pg_advisory_xact_lock(hashtext('buildq.schedules'));
  for known in
    select * from schedules s where removed_at is null
      and not exists (select from jsonb_array_elements(list) i where i ->> 'name' = s.name)
    order by name for update
  loop
    skipped := skipped || coalesce(buildq_schedule_skip(known, buildq_now(), 'the schedule was removed'), '[]');
    update schedules set removed_at = buildq_now(), next_at = null where name = known.name;
  end loop;
  for item in select * from jsonb_array_elements(list) loop
    if not exists (select from schedules where definition ->> 'zone' = item ->> 'zone')
       and not exists (select from pg_timezone_names where name = item ->> 'zone') then
      faults := faults || jsonb_build_object('name', item -> 'name', 'message',
        format('the time zone %s is not known to PostgreSQL; zones have names as Europe/Berlin or UTC', item -> 'zone'));
      continue;
    end if;
    select * into known from schedules where name = item ->> 'name' for update;
    if found and known.removed_at is null and known.definition -> 'fields' = item -> 'fields'
       and known.definition -> 'zone' = item -> 'zone' then
      update schedules set definition = item where name = known.name and definition <> item;
      continue;
    end if;
    if found and known.removed_at is null then
      skipped := skipped || coalesce(buildq_schedule_skip(known, buildq_now(), 'the schedule was changed'), '[]');
    end if;
    insert into schedules (name, definition, next_at)
      values (item ->> 'name', item, buildq_next_occurrence(item, buildq_now()))
      on conflict (name) do update set definition = excluded.definition, next_at = excluded.next_at, removed_at = null;
  end loop;
  return jsonb_build_object('faults', faults, 'skipped', skipped);
end $$;

-- Takes what is due: each occurrence gets its row in the same transaction that moves the schedule on, so no other
-- server takes it again. An occurrence is missed when it is more than a minute late. Of several that are due: `skip`
-- runs those that weren't missed, `latest` the last one, `all` each.
create function buildq_schedule_take(s schedules, node uuid, most integer) returns jsonb language plpgsql as $$
declare
  now_at timestamptz := buildq_now();
  skipped jsonb;
  last timestamptz;
  moment timestamptz;
begin
  if s.paused then
    return buildq_schedule_skip(s, now_at, 'the schedule is paused: ' || coalesce(s.pause_reason, ''));
  end if;
  if s.definition ->> 'missed' = 'skip' and s.next_at < now_at - interval '1 minute' then
    return buildq_schedule_skip(s, now_at - interval '1 minute', 'missed: no server took it within a minute');
  end if;
  if s.definition ->> 'missed' = 'latest' then
    select max(t) into last from buildq_occurrences(s.definition -> 'fields', s.definition ->> 'zone',
                                                    s.next_at - interval '1 microsecond', now_at, 10000) t;
    if last > s.next_at then
      return buildq_schedule_skip(s, last - interval '1 microsecond', 'missed: a later one was due as well');
    end if;
  end if;
  for moment in
    select * from buildq_occurrences(s.definition -> 'fields', s.definition ->> 'zone',
                                     s.next_at - interval '1 microsecond', now_at, most)
  loop
    insert into schedule_runs (name, occurrence, through, outcome, build_id, node_id)
      values (s.name, moment, moment, 'claimed', gen_random_uuid(), node)
      on conflict (name, occurrence) do nothing;
    last := moment;
  end loop;
  update schedules set next_at = buildq_next_occurrence(s.definition, coalesce(last, now_at)) where name = s.name;
  return null;
end $$;

-- What this server is to enqueue now: what it has just taken, and what another one took more than a minute ago and did
-- not finish: {runs: [{name, occurrence, buildId, request}], skipped: […], waitSeconds}. waitSeconds: until the next is
-- due (0: there is more now), null when none is in sight.
create function buildq_schedule_claim(node uuid, most integer) returns jsonb language plpgsql as $$
declare
  s schedules;
  skipped jsonb := '[]';
  runs jsonb;
begin
  for s in
    select * from schedules where next_at <= buildq_now() order by next_at limit most for update skip locked
  loop
    skipped := skipped || coalesce(buildq_schedule_take(s, node, most), '[]');
  end loop;
  with due as (
    select r.name, r.occurrence from schedule_runs r
    where r.outcome = 'claimed' and (r.claimed_at < buildq_now() - interval '1 minute'
                                     or (r.claimed_at = buildq_now() and r.node_id = node))
    order by r.occurrence limit most * 20
    for update skip locked
  ), taken as (
    update schedule_runs r set claimed_at = buildq_now(), node_id = node from due
    where r.name = due.name and r.occurrence = due.occurrence
    returning r.*
  )
  select coalesce(jsonb_agg(jsonb_build_object('name', taken.name, 'occurrence', buildq_time(taken.occurrence),
      'buildId', taken.build_id, 'request', d.definition -> 'request') order by taken.occurrence), '[]') into runs
  from taken join schedules d on d.name = taken.name;
  return jsonb_build_object('runs', runs, 'skipped', skipped, 'waitSeconds',
    (select greatest(0, extract(epoch from min(next_at) - buildq_now())) from schedules where next_at is not null));
end $$;

-- What became of a claimed occurrence. That a build was enqueued is final, whoever says it.
create function buildq_schedule_settle(run text, at timestamptz, result text, why text) returns void language sql as $$
  update schedule_runs set outcome = result, reason = why
  where name = run and occurrence = at and outcome <> 'enqueued'
$$;

-- A run by hand, also of a paused schedule: its row, claimed by `node`. No row of the table: there is no such schedule.
create function buildq_schedule_manual(run text, node uuid) returns jsonb language plpgsql as $$
declare
  s schedules;
  moment timestamptz := buildq_now();
  id uuid := gen_random_uuid();
begin
  select * into s from schedules where name = run and removed_at is null;
  if not found then return null; end if;
  loop
    insert into schedule_runs (name, occurrence, through, manual, outcome, build_id, node_id)
      values (run, moment, moment, true, 'claimed', id, node) on conflict (name, occurrence) do nothing;
    exit when found;
    moment := moment + interval '1 microsecond';
  end loop;
  return jsonb_build_object('name', run, 'occurrence', buildq_time(moment), 'buildId', id,
    'request', s.definition -> 'request');
end $$;

-- An occurrence's row as the API shows it.
create function buildq_schedule_run_view(r schedule_runs) returns jsonb language sql stable as $$
  select jsonb_build_object('occurrence', buildq_time(r.occurrence), 'through', buildq_time(r.through),
    'occurrences', r.occurrences, 'manual', r.manual, 'outcome', r.outcome, 'reason', r.reason, 'buildId', r.build_id)
$$;

-- A schedule as the API shows it.
create function buildq_schedule_view(s schedules) returns jsonb language sql stable as $$
  select jsonb_build_object('name', s.name, 'cron', s.definition -> 'cron', 'zone', s.definition -> 'zone',
    'missed', s.definition -> 'missed', 'nextAt', buildq_time(s.next_at), 'paused', s.paused,
    'pauseReason', s.pause_reason, 'pausedAt', buildq_time(s.paused_at),
    'lastRun', (select buildq_schedule_run_view(r) from schedule_runs r where r.name = s.name
                order by r.occurrence desc limit 1))
$$;

-- A pause catches nothing up: what came due until now and has no row yet gets its reason before the pause ends.
create function buildq_schedule_resume(run text) returns jsonb language plpgsql as $$
declare
  s schedules;
begin
  select * into s from schedules where name = run and removed_at is null for update;
  if not found then return null; end if;
  if s.paused then
    while s.next_at <= buildq_now() loop
      perform buildq_schedule_skip(s, buildq_now(), 'the schedule is paused: ' || coalesce(s.pause_reason, ''));
      select * into s from schedules where name = run;
    end loop;
  end if;
  update schedules set paused = false, pause_reason = null, paused_at = null where name = run returning * into s;
  return buildq_schedule_view(s);
end $$;
