-- The cluster's switches, figures and housekeeping.

-- name: ping
-- Whether PostgreSQL answers at all.
select 1;

-- name: control
select jsonb_build_object('paused', paused, 'reason', pause_reason, 'since', buildq_time(paused_at))
from queue_control;

-- name: pause
-- $1 reason. Durable and for the whole cluster; the first moment stays when the reason is replaced.
update queue_control set paused = true, pause_reason = $1, paused_at = coalesce(paused_at, buildq_now())
returning jsonb_build_object('paused', paused, 'reason', pause_reason, 'since', buildq_time(paused_at));

-- name: resume
update queue_control set paused = false, pause_reason = null, paused_at = null
returning jsonb_build_object('paused', paused, 'reason', pause_reason, 'since', buildq_time(paused_at));

-- name: set_notifications
-- $1 whether events owe mails. The server's configuration decides; plain SQL writers follow it.
update queue_control set notifications = $1::boolean where notifications <> $1::boolean;

-- name: announce
-- $1 channel. Tells the other servers that there is something to look at.
select pg_notify($1, '');

-- name: statistics
-- Cheap however many builds have ended: only indexes that are as small as the queue, today and the last 24 hours. What
-- is pending is read in one pass: a min() alone would tempt the planner to walk through all that ever was enqueued.
with day as (
  select status, build_duration_seconds, completed_at >= date_trunc('day', buildq_now() at time zone 'UTC')
    at time zone 'UTC' as today
  from build_queue where completed_at >= buildq_now() - interval '24 hours'
), pending as (
  select count(*) as count, min(enqueued_at) as oldest from build_queue where status = 'pending'
)
select jsonb_build_object(
  'pendingCount', (select count from pending),
  'buildingCount', (select count(*) from build_queue where status = 'building'),
  'completedToday', (select count(*) from day where today and status = 'success'),
  'failedToday', (select count(*) from day where today and status in ('failed', 'timedout')),
  'averageBuildTimeSeconds', (select coalesce(avg(build_duration_seconds), 0) from day where status = 'success'),
  'successRate', (select coalesce(100.0::double precision * count(*) filter (where status = 'success')
                                  / nullif(count(*), 0), 0)
                  from day where status in ('success', 'failed', 'timedout')),
  'oldestPendingBuild', (select buildq_time(oldest) from pending),
  'activeBuilds', (select coalesce(jsonb_agg(jsonb_build_object('id', id, 'customerId', customer_id,
      'configurationName', configuration_name, 'progressPercent', progress_percent, 'currentStep', current_step,
      'startedAt', buildq_time(started_at), 'attempt', attempt) order by started_at), '[]')
    from (select * from build_queue where status = 'building' order by started_at limit 100) as b),
  'paused', (select paused from queue_control),
  'pauseReason', (select pause_reason from queue_control),
  'asOf', buildq_time(buildq_now()));

-- name: metrics
-- Gauges of the whole database for /metrics; as cheap as statistics.
with day as (
  select status, build_duration_seconds from build_queue where completed_at >= buildq_now() - interval '24 hours'
), pending as (
  select priority, count(*) as count, min(enqueued_at) as oldest from build_queue where status = 'pending'
  group by priority
)
select jsonb_build_object(
  'pending', (select coalesce(jsonb_object_agg(priority, count), '{}') from pending),
  'oldestPendingSeconds', (select coalesce(buildq_seconds_since(min(oldest)), 0) from pending),
  'active', (select count(*) from build_queue where status = 'building'),
  'average', (select coalesce(avg(build_duration_seconds), 0) from day where status = 'success'),
  'failed', (select count(*) from day where status in ('failed', 'timedout')),
  'succeeded', (select count(*) from day where status = 'success'),
  'outboxPending', (select count(*) from outbox where state = 'pending'),
  'notifications', buildq_notification_metrics());

-- name: horizon
-- What keeps vacuum from removing what is dead in this database, the 8 oldest: kind, process, a key that names it, the
-- oldest transaction that it may still see, seconds (null: our role may not know), role, application, query. What has no
-- role is PostgreSQL's own and in nobody's way, and a worker is its leader's. Time is the real one: transactions have no
-- other.
select * from (
  select coalesce(nullif(backend_type, 'client backend'), 'session') as kind, pid::text,
    concat_ws(' ', pid, backend_start, xact_start) as key, coalesce(backend_xmin, backend_xid)::text as xmin,
    extract(epoch from clock_timestamp() - xact_start) as seconds, usename::text as role, application_name,
    left(query, 4000) as query
  from pg_stat_activity
  where (backend_xmin is not null or backend_xid is not null) and pid <> pg_backend_pid() and leader_pid is null
    and usesysid is not null and (datname = current_database() or datname is null)
  union all
  select 'prepared transaction ' || gid, '', 'prepared ' || gid, transaction::text,
    extract(epoch from clock_timestamp() - prepared), owner::text, '', ''
  from pg_prepared_xacts where database = current_database()
  union all
  select 'replication slot ' || slot_name, coalesce(active_pid::text, ''), 'slot ' || slot_name, xmin::text, null, '', '', ''
  from pg_replication_slots where xmin is not null
) as holders
order by seconds desc nulls first limit 8;

-- name: store_generation
-- $1 hash, $2 files as JSON: [{"path":, "hash":, "content":}]. Stored before first use; identical files once.
with files as (
  select * from jsonb_to_recordset($2::jsonb) as f(path text, hash text, content text)
), sources as (
  insert into script_sources (hash, content) select distinct on (hash) hash, content from files
  on conflict (hash) do nothing
), generation as (
  insert into script_generations (hash) values ($1) on conflict (hash) do update set used_at = excluded.used_at
)
insert into script_generation_files (generation, path, source_hash) select $1, path, hash from files
on conflict (generation, path) do nothing;

-- name: load_generation
-- $1 hash. Its files, for a takeover by a server that has other scripts on its disk.
select jsonb_agg(jsonb_build_object('path', f.path, 'content', s.content) order by f.path)
from script_generation_files f join script_sources s on s.hash = f.source_hash
where f.generation = $1
having count(*) > 0;

-- name: retention
-- $1 days, $2 how many. Removes builds that ended long ago, in small batches that stall no claim. Nothing on an adopted
-- table before somebody has confirmed it. Answers the ids and the nodes that hold files of them (a PostgreSQL array).
with old as (
  select id from build_queue
  where completed_at < buildq_now() - make_interval(days => $1::integer)
    and status in ('success', 'failed', 'cancelled', 'timedout')
    and (restored_at is null or restored_at < buildq_now() - make_interval(days => $1::integer))
    and (select retention_allowed from queue_control)
  order by completed_at limit $2::integer
  for update skip locked
)
delete from build_queue b using old where b.id = old.id
returning b.id, (select coalesce(array_agg(distinct a.node_id), '{}') from build_attempts a where a.build_id = b.id);

-- name: retention_state
-- $1 days. What `buildq retention` shows.
select jsonb_build_object('allowed', retention_allowed, 'adoptedBuilds', adopted_builds,
  'due', (select count(*) from build_queue where completed_at < buildq_now() - make_interval(days => $1::integer)
          and status in ('success', 'failed', 'cancelled', 'timedout')))
from queue_control;

-- name: retention_confirm
-- $1 the count that was shown. Answers a row only when it is still that.
update queue_control set retention_allowed = true where adopted_builds = $1::bigint returning adopted_builds;

-- name: purge_history
-- $1 days, $2 how many. History outlives its builds, but not for ever.
-- That of a restored build stays as long as the build.
delete from build_events where ctid in (
  select ctid from build_events e where at < buildq_now() - make_interval(days => $1::integer)
    and not exists (select from build_queue b where b.id = e.build_id and b.restored_at is not null)
  limit $2::integer);

-- name: purge_keys
-- $1 how many. Idempotency keys are kept for a day.
delete from idempotency_keys where key in (
  select key from idempotency_keys where created_at < buildq_now() - interval '24 hours' limit $1::integer);

-- name: purge_manifests
-- $1 how many. Copies that no build needs any more and none was enqueued with for two days.
delete from build_manifests where hash in (
  select hash from build_manifests m where used_at < buildq_now() - interval '2 days'
    and not exists (select from build_queue b where b.manifest_hash = m.hash)
  limit $1::integer)
  and used_at < buildq_now() - interval '2 days';

-- name: purge_generations
-- $1 days, $2 how many. Scripts that no server has run for so long and no unfinished build asks for.
with gone as (
  delete from script_generations where hash in (
    select hash from script_generations g where used_at < buildq_now() - make_interval(days => $1::integer)
      and not exists (select from build_queue b where b.status in ('pending', 'building') and b.generation = g.hash)
      and not exists (select from queue_control where active_generation = g.hash)
    limit $2::integer)
    and used_at < buildq_now() - make_interval(days => $1::integer)
  returning hash
)
select count(*) from gone;

-- name: purge_sources
-- $1 how many. Script files that no generation has any more. Run it after purge_generations.
delete from script_sources where hash in (
  select hash from script_sources s
  where not exists (select from script_generation_files f where f.source_hash = s.hash) limit $1::integer);

-- name: purge_nodes
-- $1 days, $2 how many. Servers that ended so long ago; more days than builds are kept, because a build's files are
-- found by its node.
delete from nodes where id in (
  select id from nodes where state in ('stopped', 'dead')
    and ended_at < buildq_now() - make_interval(days => $1::integer)
  limit $2::integer);

-- name: unknown_builds
-- $1 ids. Which of them have no row any more: their files can go.
select id from unnest($1::uuid[]) as wanted(id)
where not exists (select from build_queue b where b.id = wanted.id);

-- name: dead_outputs
-- $1 ids, $2 their attempts (arrays). Which of these have output that nobody will see: a newer attempt was claimed, or the
-- build ended a while ago in another way than success. Answers paths below OutputDirectory. Builds without a row are left
-- to unknown_builds.
select wanted.id || '/attempt-' || wanted.attempt
from unnest($1::uuid[], $2::integer[]) as wanted(id, attempt) join build_queue b on b.id = wanted.id
where wanted.attempt < b.attempt or (wanted.attempt = b.attempt and b.status not in ('building', 'success')
  and b.updated_at < buildq_now() - interval '1 minute');

-- name: dead_workspaces
-- $1 ids, $2 their attempts (arrays). Which of these workspaces are leftovers: a newer attempt was claimed, or nobody
-- has been building for a while. Answers paths below WorkspaceDirectory.
select wanted.id || '/attempt-' || wanted.attempt
from unnest($1::uuid[], $2::integer[]) as wanted(id, attempt) join build_queue b on b.id = wanted.id
where wanted.attempt < b.attempt or (wanted.attempt = b.attempt and b.status <> 'building'
  and b.updated_at < buildq_now() - interval '1 minute');
