-- Schedules: what the policy says, what is due, what became of it. Answers are one JSON value a row.

-- name: schedule_sync
-- $1 the list of a generation's schedules (migration 0007, buildq_schedule_sync).
select buildq_schedule_sync($1::jsonb);

-- name: schedule_claim
-- $1 node, $2 how many schedules, and occurrences of each. No two servers are given one occurrence within a minute.
-- Without a schedule in sight the function says 0 seconds, as for "there is more": null is meant, else servers ask on and
-- on.
select buildq_schedule_claim($1::uuid, $2::integer)
  || case when exists (select from schedules where next_at is not null) then '{}' else '{"waitSeconds": null}' end::jsonb;

-- name: schedule_settle
-- $1 name, $2 occurrence, $3 outcome, $4 reason.
select buildq_schedule_settle($1, $2::timestamptz, $3, $4);

-- name: schedule_manual
-- $1 name, $2 node. One run more, now.
select run from buildq_schedule_manual($1, $2::uuid) as run where run is not null;

-- name: schedule_list
select coalesce(jsonb_agg(buildq_schedule_view(s) order by name), '[]') from schedules s where removed_at is null;

-- name: schedule_show
-- $1 name, $2 how many occurrences to come, $3 how many runs, newest first.
select buildq_schedule_view(s) || jsonb_build_object(
  'next', (select coalesce(jsonb_agg(buildq_time(t) order by t), '[]')
           from buildq_occurrences(s.definition -> 'fields', s.definition ->> 'zone', buildq_now(), null,
                                   $2::integer) t),
  'runs', (select coalesce(jsonb_agg(buildq_schedule_run_view(r) order by r.occurrence desc), '[]')
           from (select * from schedule_runs r where r.name = s.name order by r.occurrence desc limit $3::integer) r))
from schedules s where name = $1 and removed_at is null;

-- name: schedule_pause
-- $1 name, $2 reason. Durable; the first moment stays when the reason is replaced.
update schedules s set paused = true, pause_reason = $2, paused_at = coalesce(paused_at, buildq_now())
where name = $1 and removed_at is null
returning buildq_schedule_view(s);

-- name: schedule_resume
-- $1 name.
select view from buildq_schedule_resume($1) as view where view is not null;

-- name: purge_schedule_runs
-- $1 days, $2 how many. Runs are kept as long as history.
delete from schedule_runs where ctid in (
  select ctid from schedule_runs where occurrence < buildq_now() - make_interval(days => $1::integer)
    and outcome <> 'claimed'
  limit $2::integer);
