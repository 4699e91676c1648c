-- Policies: what decisions look at, and the places of pending builds.

-- name: facts
-- $1 what is wanted (a JSON list of names), $2 customer, $3 tier, $4 fingerprint of the priority policy or null, $5
-- pipeline. Two columns: the counts, which are compared when the row is written, and what is only looked at.
select buildq_counts(buildq_names($1::jsonb), $2, $3),
  buildq_surroundings(buildq_names($1::jsonb), $4) || case when $1::jsonb ? 'disk' then jsonb_build_object(
    'predictedMegabytes', coalesce((select megabytes from workspace_sizes where pipeline = $5::varchar), 0)) else '{}' end;

-- name: note_size
-- $1 pipeline, $2 megabytes that a build of it had in its directories at its end. Asked at each end, writes hardly ever.
insert into workspace_sizes (pipeline, megabytes) select $1::varchar, $2::bigint
where not exists (select from workspace_sizes where pipeline = $1::varchar
  and (megabytes = $2::bigint or megabytes > $2::bigint and measured_at > buildq_now() - interval '1 day'))
on conflict (pipeline) do update
  set megabytes = greatest(excluded.megabytes, workspace_sizes.megabytes / 2), measured_at = buildq_now();

-- name: use_policy
-- $1 fingerprint of the priority policy, null for the built-in rule. When another one was in force, all that is pending is
-- to be placed anew, and fair queueing begins anew; but for what servers have placed by it before they told of it. Answers
-- 1 row when it was.
with changed as (
  update queue_control set priority_policy = $1 where priority_policy is distinct from $1 returning 1
), forgotten as (
  delete from claim_tags where exists (select from changed)
    and customer_id not in (select customer_id from build_queue where status = 'pending' and keyed_by = $1)
), noted as (
  insert into builds_to_place (build_id, priority, enqueued_at) select id, priority, enqueued_at from build_queue
  where status = 'pending' and keyed_by is distinct from $1 and exists (select from changed)
  on conflict (build_id) do update set priority = excluded.priority, enqueued_at = excluded.enqueued_at
)
select 1 from changed;

-- name: find_unplaced
-- Notes what has another policy's place and was not noted: builds that were being written while the policy changed, so that
-- neither change saw the other one.
insert into builds_to_place (build_id, priority, enqueued_at) select b.id, b.priority, b.enqueued_at
from build_queue b, queue_control c where b.status = 'pending' and b.keyed_by is distinct from c.priority_policy
on conflict do nothing;

-- name: builds_to_place
-- $1 node, $2 fingerprint, $3 how many, $4 facts that are wanted (a JSON list of names). The next builds to be placed,
-- first those that are to run first: JSON as the priority policy is given it, with its facts. One node does this at a
-- time, while it keeps asking.
with mine as (
  update queue_control set placer = $1::uuid, placer_until = buildq_now() + interval '10 seconds'
  where priority_policy is not distinct from $2
    and (placer = $1::uuid or placer_until is null or placer_until < buildq_now())
    and exists (select from builds_to_place)
  returning 1
), around as materialized (
  select buildq_surroundings(buildq_names($4::jsonb), $2) as facts where exists (select from mine)
)
select jsonb_build_object('id', b.id, 'customerId', b.customer_id, 'customerName', b.customer_name, 'tier', b.tier,
    'architecture', b.architecture, 'cloudProvider', b.cloud_provider, 'pipeline', b.pipeline, 'configurationName',
    b.configuration_name, 'priority', coalesce(b.asked_priority, b.priority), 'metadata', b.metadata,
    'enqueuedAt', (extract(epoch from b.enqueued_at) * 1000000)::bigint,
    'counts', buildq_counts(buildq_names($4::jsonb), b.customer_id, b.tier), 'surroundings', around.facts)
from around, builds_to_place p join build_queue b on b.id = p.build_id and b.status = 'pending' and b.keyed_by is distinct from $2
order by p.priority desc, p.enqueued_at, p.build_id
limit $3::integer;

-- name: place
-- $1 fingerprint, $2 places (JSON), $3 tags (JSON). How many were still pending.
select buildq_place($1, $2::jsonb, $3::jsonb);

-- name: forget_placed
-- Entries of builds that wait no more, or have their place. After the last batch.
delete from builds_to_place p where not exists (select from build_queue b, queue_control c
  where b.id = p.build_id and b.status = 'pending' and b.keyed_by is distinct from c.priority_policy);
