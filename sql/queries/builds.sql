-- What the API asks and changes. Answers are one JSON value a row, in the API's own names.

-- name: enqueue
-- $1 the fields as JSON (scripts/lib/buildq.d.lua: EnqueueFields). For those that were decided on counts.
select buildq_enqueue($1::jsonb);

-- name: enqueue_all
-- $1 JSON list of fields. A row for each, in their order, as of enqueue. All or nothing.
select answer from buildq_enqueue_all($1::jsonb) order by place;

-- name: replay
-- $1 idempotency key, $2 hash of the request. What the same request was answered; a conflict when it was another one. Asked
-- before a repeated request is checked, since its manifest may have changed or gone meanwhile.
select case when request_hash = $2 then jsonb_build_object('id', build_id, 'answer', answer, 'replayed', true)
  else jsonb_build_object('conflict', true) end
from idempotency_keys where key = $1 and created_at >= buildq_now() - interval '24 hours';

-- name: get_build
-- $1 id. A build that waits for a server that can take it says what is missing.
select case when b.needs <> '{}' and b.status = 'pending'
  then buildq_view(b) || jsonb_build_object('unmetNeeds', to_jsonb(buildq_unmet(b.needs))) else buildq_view(b) end
from build_queue b where id = $1::uuid;

-- name: unmet_needs
-- $1 labels (array). JSON: what no live server offers of them, null when one has them all.
select to_jsonb(buildq_unmet($1::text[]));

-- name: homeless_builds
-- Builds that no live server can take: a row for each kind of them (20 at most), its needs and what is missing as texts,
-- how many, the oldest one's id.
select array_to_string(needs, ', ') as needs, array_to_string(buildq_unmet(needs), ', ') as missing, count,
  (select id from build_queue b where b.status = 'pending' and b.needs <> '{}' and b.needs = kinds.needs
   order by b.enqueued_at limit 1) as oldest
from (select needs, count(*) as count from build_queue where status = 'pending' and needs <> '{}'
      group by needs order by 2 desc limit 100) as kinds
where buildq_unmet(needs) is not null limit 20;

-- name: list_builds
-- $1 status, $2 customer, $3 metadata that must be contained, $4 limit, $5 cursor time, $6 cursor id. Newest first.
-- One row more than the limit tells the caller that there is a next page.
select view, at, build_id
from buildq_list($1, $2, $4::integer + 1, to_timestamp($5::double precision), $6::uuid, $3::jsonb);

-- name: set_priority
-- $1 id, $2 priority. Only of a pending build; the trigger gives it its new place.
with found as materialized (
  select id, status from build_queue where id = $1::uuid for update
), changed as (
  update build_queue b set priority = $2::integer, updated_at = buildq_now()
  from found where b.id = found.id and found.status = 'pending'
  returning b as build
)
select jsonb_build_object('outcome', 'done', 'build', buildq_view(build)) from changed
union all
select jsonb_build_object('outcome', 'conflict', 'status', status) from found where not exists (select from changed);

-- name: cancel
-- $1 id, $2 reason. A pending build ends at once; a running one is asked to, durably. Which of them it is, is looked at
-- when it is locked: it may be claimed, or given back, while this waits.
with found as materialized (
  select id, status from build_queue where id = $1::uuid for update
), ended as (
  update build_queue b set status = 'cancelled', error_message = coalesce($2, 'cancelled'), completed_at = buildq_now(),
    run_after = null, updated_at = buildq_now()
  from found where b.id = found.id and found.status = 'pending'
  returning b.id
), asked as (
  update build_queue b set cancel_requested_at = coalesce(b.cancel_requested_at, buildq_now()),
    cancel_reason = coalesce(b.cancel_reason, $2), updated_at = buildq_now()
  from found where b.id = found.id and found.status = 'building'
  returning b.id
)
select jsonb_build_object('outcome', case when exists (select from ended) then 'cancelled'
    when exists (select from asked) then 'requested' else 'conflict' end, 'status', status)
from found;

-- name: retry
-- $1 id. An ended build starts a new round; its place in the order stays.
with found as materialized (
  select id, status from build_queue where id = $1::uuid for update
), again as (
  update build_queue b set status = 'pending', round = b.round + 1, retry_count = 0, lost_nodes = 0, run_after = null,
    progress_percent = 0, current_step = null, error_message = null, output_path = null, image_url = null,
    download_url = null, started_at = null, completed_at = null, build_duration_seconds = null, generation = null,
    cancel_requested_at = null, cancel_reason = null, updated_at = buildq_now()
  from found where b.id = found.id and found.status in ('success', 'failed', 'cancelled', 'timedout')
  returning b.id
)
select jsonb_build_object('outcome', case when exists (select from again) then 'done' else 'conflict' end,
                          'status', status)
from found;

-- name: bulk_retry
-- $1 status, $2 ended at or after, $3 how many.
with chosen as (
  select id from build_queue
  where status = $1 and status in ('failed', 'cancelled', 'timedout')
    and ($2::timestamptz is null or completed_at >= $2::timestamptz)
  order by id limit $3::integer
  for update skip locked
), again as (
  update build_queue b set status = 'pending', round = round + 1, retry_count = 0, lost_nodes = 0, run_after = null,
    progress_percent = 0, current_step = null, error_message = null, output_path = null, image_url = null,
    download_url = null, started_at = null, completed_at = null, build_duration_seconds = null, generation = null,
    cancel_requested_at = null, cancel_reason = null, updated_at = buildq_now()
  from chosen where b.id = chosen.id
  returning b.id
)
select jsonb_build_object('count', (select count(*) from again));

-- name: events_since
-- $1 id, $2 after, $3 limit. No row of the outer kind: no such build, and no history of one.
select jsonb_build_object(
  'exists', exists (select from build_queue where id = $1::uuid) or exists
    (select from build_events where build_id = $1::uuid),
  'events', (select coalesce(jsonb_agg(jsonb_build_object('seq', seq, 'type', type, 'at', buildq_time(at),
      'attempt', attempt, 'data', data) order by seq), '[]')
    from (select * from build_events where build_id = $1::uuid and seq > $2::integer order by seq
          limit $3::integer) as page));

-- name: attempts
-- $1 id. Oldest first.
select coalesce((select jsonb_agg(jsonb_build_object('attempt', attempt, 'startedAt', buildq_time(started_at),
    'endedAt', buildq_time(ended_at), 'outcome', outcome, 'errorMessage', error_message, 'errorKind', error_kind,
    'node', node_id, 'generation', generation, 'currentStep', step, 'progressPercent', progress) order by attempt)
  from build_attempts where build_id = $1::uuid), '[]')
from build_queue where id = $1::uuid;

-- name: artifacts
-- $1 id. Those of the committed attempt only.
select jsonb_build_object('attempt', a.attempt, 'artifacts', coalesce(a.artifacts, '[]'))
from build_queue b
left join build_attempts a on a.build_id = b.id and a.attempt = b.attempt and b.status = 'success'
  and a.outcome = 'success'
where b.id = $1::uuid;

-- name: watch_builds
-- $1 ids, $2 the last event seen of each. What streams of single builds are told: present state (nulls when it is gone)
-- and new events.
select wanted.id, jsonb_build_object('status', b.status, 'progressPercent', b.progress_percent, 'currentStep',
    b.current_step, 'progressText', b.progress_text, 'attempt', b.attempt),
  (select coalesce(jsonb_agg(jsonb_build_object('seq', e.seq, 'type', e.type, 'at', buildq_time(e.at),
      'attempt', e.attempt, 'data', e.data) order by e.seq), '[]')
   from (select * from build_events e where e.build_id = wanted.id and e.seq > wanted.after
         order by e.seq limit 200) as e)
from unnest($1::uuid[], $2::integer[]) as wanted(id, after)
left join build_queue b on b.id = wanted.id;

-- name: begun_builds
-- $1 ids. Of those that wait no longer for their first attempt: whether they have had one.
select wanted.id, case when b.attempt > 0 then 'begun' else 'over' end
from unnest($1::uuid[]) as wanted(id)
left join build_queue b on b.id = wanted.id
where b.id is null or b.attempt > 0 or b.status not in ('pending', 'building');

-- name: watch_customer
-- $1 customer, $2 how many seconds to look back, or null for the present state of what is unfinished. A change is
-- stamped before it commits: the caller looks back further than its last look, and drops what it has seen. What has
-- changed is unfinished or has just ended, so a customer of very many old builds costs no more than another.
select buildq_view(b), b.updated_at::text from build_queue b
where customer_id = $1 and case when $2::double precision is null then status in ('pending', 'building')
  else updated_at > buildq_now() - make_interval(secs => $2::double precision) end
  and (status in ('pending', 'building')
       or completed_at > buildq_now() - make_interval(secs => $2::double precision + 60))
order by updated_at
limit 1000;
