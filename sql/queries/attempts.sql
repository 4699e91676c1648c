-- The life of an attempt: claim, progress, every end. Each write names (id, attempt, node) and expects 'building', so a
-- stale attempt changes nothing. A repeated write (its first answer was lost) is told apart from a stale one by what
-- build_attempts holds: now, which `for share` sees, not as the statement began, since the first may have been under way
-- still. All ends answer one word: recorded, repeated, stale.

-- name: claim
-- $1 node, $2 how many, $3 lowest claim key to look at, $4 the running generation: of those that keep none from an
-- attempt that was cut short, and are not of the part that an activation takes. $5 the node's labels (array): builds that
-- need others are left out. One JSON object a row: all that an attempt needs.
-- SKIP LOCKED lets many servers claim at once; the row lock and the new attempt number make each start happen once. A
-- node that was declared dead, or is about to leave, gets nothing.
with moment as materialized (
  select buildq_now() as now
), control as materialized (
  select paused, notifications, active_generation, active_share from queue_control
), due as (
  select id from build_queue
  where status = 'pending' and claim_key >= $3::bigint and (run_after is null or run_after <= (select now from moment))
    and (needs = '{}' or needs <@ $5::text[]) and not (select paused from control)
    and exists (select from nodes where nodes.id = $1::uuid and state = 'live')
  order by claim_key
  limit $2::integer
  for update skip locked
), started as (
  update build_queue b set status = 'building', node_id = $1::uuid, attempt = b.attempt + 1, run_after = null,
    generation = coalesce(b.generation, case when (select active_generation from control) is not null
      and buildq_part(b.id) < (select active_share from control) then (select active_generation from control) end, $4),
    started_at = (select now from moment), completed_at = null, build_duration_seconds = null, progress_percent = 0,
    current_step = null, progress_text = null, error_message = null, output_path = null, image_url = null,
    download_url = null, updated_at = (select now from moment), event_seq = b.event_seq + 1, told = b.event_seq + 1
  from due where b.id = due.id
  returning b as build, b.id, b.attempt, b.round, b.event_seq, b.generation, b.claim_key, b.manifest_hash
), noted as (
  insert into build_attempts (build_id, attempt, node_id, generation, started_at)
  select id, attempt, $1::uuid, generation, (select now from moment) from started
), told as (
  insert into build_events (build_id, seq, at, type, attempt, round, data)
  select id, event_seq, (select now from moment), 'started', attempt, round, jsonb_build_object('node', $1::uuid)
  from started
), owed as (
  insert into outbox (build_id, event, round, attempt, data, created_at)
  select id, 'started', round, 0, jsonb_build_object('node', $1::uuid), (select now from moment) from started
  where (select notifications from control)
  on conflict (build_id, event, round, attempt) do nothing
), used as (
  -- Whatever a server runs is not purged, however long nothing was changed.
  update script_generations set used_at = buildq_now() where hash = $4 and used_at < buildq_now() - interval '1 day'
)
select buildq_claimed(build, (select content from build_manifests where hash = manifest_hash)) from started
order by claim_key;

-- name: candidates
-- For a policy that chooses. $1 node, $2 how many, $3 lowest claim key to look at, $4 whether what runs is asked for too
-- (1,000 builds at most, longest first), $5 the node's labels. One row: JSON of the next builds that are due, in the order of their keys, and
-- JSON of facts. No row when nothing may be claimed.
with due as (
  select * from build_queue
  where status = 'pending' and claim_key >= $3::bigint and (run_after is null or run_after <= buildq_now())
    and (needs = '{}' or needs <@ $5::text[]) and not (select paused from queue_control)
    and exists (select from nodes where nodes.id = $1::uuid and state = 'live')
  order by claim_key
  limit $2::integer
), running as (
  select * from build_queue where status = 'building' and $4::boolean and exists (select from due)
  order by started_at
  limit 1000
), seen as (
  select status = 'pending' as is_due, claim_key, started_at, jsonb_build_object('id', id, 'customerId', customer_id,
      'customerName', customer_name, 'tier', tier, 'architecture', architecture, 'cloudProvider', cloud_provider,
      'configurationName', configuration_name, 'pipeline', pipeline, 'priority', priority, 'metadata', metadata,
      'enqueuedAt', (extract(epoch from enqueued_at) * 1000000)::bigint, 'key', claim_key, 'attempt', attempt,
      'retryCount', retry_count) as build
  from (select * from due union all select * from running) as b
)
select jsonb_agg(build order by claim_key) filter (where is_due),
  jsonb_build_object('now', (extract(epoch from buildq_now()) * 1000000)::bigint) || case when $4::boolean then
    jsonb_build_object('running', coalesce(jsonb_agg(build order by started_at) filter (where not is_due), '[]'))
    else '{}' end
from seen
having count(*) > 0;

-- name: claim_chosen
-- As claim, of the builds that a policy chose among candidates: $6 their ids, the first goes first. Whatever has
-- happened to one since counts: what another server has, or holds locked, is left out.
with moment as materialized (
  select buildq_now() as now
), control as materialized (
  select paused, notifications, active_generation, active_share from queue_control
), due as (
  select id from build_queue
  where id = any($6::uuid[]) and status = 'pending' and claim_key >= $3::bigint
    and (run_after is null or run_after <= (select now from moment)) and (needs = '{}' or needs <@ $5::text[])
    and not (select paused from control)
    and exists (select from nodes where nodes.id = $1::uuid and state = 'live')
  order by array_position($6::uuid[], id)
  limit $2::integer
  for update skip locked
), started as (
  update build_queue b set status = 'building', node_id = $1::uuid, attempt = b.attempt + 1, run_after = null,
    generation = coalesce(b.generation, case when (select active_generation from control) is not null
      and buildq_part(b.id) < (select active_share from control) then (select active_generation from control) end, $4),
    started_at = (select now from moment), completed_at = null, build_duration_seconds = null, progress_percent = 0,
    current_step = null, progress_text = null, error_message = null, output_path = null, image_url = null,
    download_url = null, updated_at = (select now from moment), event_seq = b.event_seq + 1, told = b.event_seq + 1
  from due where b.id = due.id
  returning b as build, b.id, b.attempt, b.round, b.event_seq, b.generation, b.claim_key, b.manifest_hash
), noted as (
  insert into build_attempts (build_id, attempt, node_id, generation, started_at)
  select id, attempt, $1::uuid, generation, (select now from moment) from started
), told as (
  insert into build_events (build_id, seq, at, type, attempt, round, data)
  select id, event_seq, (select now from moment), 'started', attempt, round, jsonb_build_object('node', $1::uuid)
  from started
), owed as (
  insert into outbox (build_id, event, round, attempt, data, created_at)
  select id, 'started', round, 0, jsonb_build_object('node', $1::uuid), (select now from moment) from started
  where (select notifications from control)
  on conflict (build_id, event, round, attempt) do nothing
), used as (
  -- Whatever a server runs is not purged, however long nothing was changed.
  update script_generations set used_at = buildq_now() where hash = $4 and used_at < buildq_now() - interval '1 day'
)
select buildq_claimed(build, (select content from build_manifests where hash = manifest_hash)) from started
order by array_position($6::uuid[], id);

-- name: lowest_key
-- $1 the node's labels. The smallest claim key among the builds that are due and that it can take, null when there is none:
-- where its next claims begin to look. What lies below it are dead entries of the index, retries that wait, and builds for
-- others.
select (select claim_key from build_queue
        where status = 'pending' and (run_after is null or run_after <= buildq_now()) and (needs = '{}' or needs <@ $1::text[])
        order by claim_key limit 1);

-- name: mine
-- $1 node. What this node runs as the database sees it: after a claim whose answer was lost.
select id, attempt from build_queue where status = 'building' and node_id = $1::uuid;

-- name: keep_manifest
-- $1 id, $2 attempt, $3 node, $4 manifest, $5 the pipeline it names, $6 what both need (array of labels). The copy for a
-- row that came by plain SQL, taken at its first claim. The end of a quick build may be written before it, and has taken
-- the node away then.
with content as (
  select $4::jsonb as content, encode(sha256(convert_to($4::jsonb::text, 'UTF8')), 'hex') as hash
), kept as (
  select hash, buildq_keep_manifest(hash, content) from content
)
update build_queue set manifest_hash = (select hash from kept), pipeline = $5, needs = $6::text[], updated_at = buildq_now()
where id = $1::uuid and attempt = $2::integer and coalesce(node_id, $3::uuid) = $3::uuid and manifest_hash is null;

-- name: progress
-- $1 id, $2 attempt, $3 node, $4 percent, $5 step, $6 what the pipeline says within it, or ''. Never falls within an
-- attempt. Answers 1 row unless it is stale.
update build_queue set progress_percent = greatest(progress_percent, $4::integer), current_step = $5,
  progress_text = nullif($6, ''), updated_at = buildq_now()
where id = $1::uuid and attempt = $2::integer and node_id = $3::uuid and status = 'building'
returning 1;

-- name: finish_success
-- $1 JSON list of {id, attempt, node, outputPath, imageUrl, downloadUrl, artifacts, logTail, log}; log: the whole log when
-- it has no file. A row for each, in their order. Rows are locked in the order of their ids.
with moment as materialized (
  select buildq_now() as now
), given as materialized (
  select * from rows from (jsonb_to_recordset($1::jsonb) as (id uuid, attempt integer, node uuid, "outputPath" text,
    "imageUrl" text, "downloadUrl" text, artifacts jsonb, "logTail" text, log text)) with ordinality as g(id, attempt,
    node, output_path, image_url, download_url, artifacts, log_tail, log, place)
), ended as (
  update build_queue b set status = 'success', progress_percent = 100, current_step = 'Build complete',
    output_path = h.output_path, image_url = h.image_url, download_url = h.download_url, error_message = null,
    completed_at = (select now from moment),
    build_duration_seconds = greatest(0, extract(epoch from (select now from moment) - b.started_at)), lost_nodes = 0,
    cancel_requested_at = null, cancel_reason = null, node_id = null, updated_at = (select now from moment),
    event_seq = b.event_seq + 1, told = b.event_seq + 1
  -- Not by the index of the status, which promises few rows when none was building as the table was analyzed.
  from (select * from given order by id) h
  where b.id = h.id and b.attempt = h.attempt and b.node_id = h.node and b.status || '' = 'building'
  returning b.id, b.attempt, b.round, b.event_seq, h.artifacts, h.log_tail, h.log, h.place,
    jsonb_strip_nulls(jsonb_build_object('outputPath', b.output_path, 'downloadUrl', b.download_url,
      'imageUrl', b.image_url)) as data
), noted as (
  update build_attempts a set ended_at = (select now from moment), outcome = 'success',
    artifacts = coalesce(e.artifacts, '[]'), log_tail = e.log_tail, log = e.log, progress = 100
  from ended e where a.build_id = e.id and a.attempt = e.attempt
), told as (
  insert into build_events (build_id, seq, at, type, attempt, round, data)
  select id, event_seq, (select now from moment), 'success', attempt, round, data from ended
), owed as (
  insert into outbox (build_id, event, round, attempt, data, created_at)
  select id, 'completed', round, 0, data, (select now from moment) from ended
  where (select notifications from queue_control)
  on conflict (build_id, event, round, attempt) do nothing
)
select word from (
  select place, 'recorded' as word from ended
  union all
  select g.place, case when (select a.node_id = g.node and a.outcome = 'success' from build_attempts a
                             where a.build_id = g.id and a.attempt = g.attempt for share)
                  then 'repeated' else 'stale' end
  from given g where g.place not in (select place from ended)
) as words
order by place;

-- name: finish_failure
-- $1 id, $2 attempt, $3 node, $4 message, $5 kind, $6 'failed' or 'timedout', $7 seconds until the retry, null: there is
-- none, $8 log tail, $9 the retry stays on this generation.
-- A charged failure. The retry rule has decided whether the build waits or has failed. The second column is the build's
-- status now.
with found as materialized (
  -- Locked before it is looked at whether somebody wants it cancelled.
  select id, cancel_requested_at from build_queue
  where id = $1::uuid and attempt = $2::integer and node_id = $3::uuid and status = 'building'
  for update
), ended as (
  update build_queue b set
    status = case when $7::double precision is null then $6 else 'pending' end,
    retry_count = b.retry_count + 1,
    run_after = buildq_now() + make_interval(secs => $7::double precision),
    completed_at = case when $7::double precision is null then buildq_now() end,
    build_duration_seconds = case when $7::double precision is null then buildq_seconds_since(b.started_at) end,
    error_message = $4, lost_nodes = 0, node_id = null,
    generation = case when $7::double precision is null or $9::boolean then b.generation end,
    updated_at = buildq_now()
  from found where b.id = found.id and found.cancel_requested_at is null
  returning b.status, b.progress_percent, b.current_step
), cancelled as (
  -- A cancel that was asked for while the attempt failed by itself: no retry.
  update build_queue b set status = 'cancelled', completed_at = buildq_now(), node_id = null,
    error_message = coalesce(b.cancel_reason, 'cancelled'), updated_at = buildq_now(),
    build_duration_seconds = buildq_seconds_since(b.started_at)
  from found where b.id = found.id and found.cancel_requested_at is not null
  returning b.status, b.progress_percent, b.current_step
), outcome as (
  select * from ended union all select * from cancelled
), noted as (
  update build_attempts set ended_at = buildq_now(), outcome = $6, error_message = $4, error_kind = $5,
    log_tail = $8, step = (select current_step from outcome), progress = (select progress_percent from outcome)
  where build_id = $1::uuid and attempt = $2::integer and exists (select from outcome)
)
select case
  when exists (select from outcome) then 'recorded'
  when (select node_id = $3::uuid and outcome = $6 from build_attempts
        where build_id = $1::uuid and attempt = $2::integer for share) then 'repeated'
  else 'stale' end,
  coalesce((select status from outcome), (select status from build_queue where id = $1::uuid for share));

-- name: finish_end
-- $1 id, $2 attempt, $3 node, $4 'timedout' or 'cancelled', $5 message, $6 kind, $7 log tail. Final, no retry.
with ended as (
  update build_queue set status = $4, error_message = $5, completed_at = buildq_now(), lost_nodes = 0, node_id = null,
    build_duration_seconds = buildq_seconds_since(started_at), updated_at = buildq_now()
  where id = $1::uuid and attempt = $2::integer and node_id = $3::uuid and status = 'building'
  returning progress_percent, current_step
), noted as (
  update build_attempts set ended_at = buildq_now(), outcome = $4, error_message = $5, error_kind = $6, log_tail = $7,
    step = (select current_step from ended), progress = (select progress_percent from ended)
  where build_id = $1::uuid and attempt = $2::integer and exists (select from ended)
)
select case
  when exists (select from ended) then 'recorded'
  when (select node_id = $3::uuid and outcome = $4 from build_attempts
        where build_id = $1::uuid and attempt = $2::integer for share) then 'repeated'
  else 'stale' end;

-- name: requeue
-- $1 id, $2 attempt, $3 node, $4 why. Shutdown: back to pending at once, nothing is charged, the generation stays.
with ended as (
  update build_queue set status = case when cancel_requested_at is null then 'pending' else 'cancelled' end,
    node_id = null, progress_percent = 0, current_step = null, started_at = null,
    completed_at = case when cancel_requested_at is null then null else buildq_now() end,
    error_message = case when cancel_requested_at is null then null else coalesce(cancel_reason, 'cancelled') end,
    updated_at = buildq_now()
  where id = $1::uuid and attempt = $2::integer and node_id = $3::uuid and status = 'building'
  returning id
), noted as (
  update build_attempts set ended_at = buildq_now(), outcome = 'requeued', error_message = $4,
    error_kind = 'infrastructure'
  where build_id = $1::uuid and attempt = $2::integer and exists (select from ended)
)
select case
  when exists (select from ended) then 'recorded'
  when (select node_id = $3::uuid and outcome = 'requeued' from build_attempts
        where build_id = $1::uuid and attempt = $2::integer for share) then 'repeated'
  else 'stale' end;
