-- What a rehearsal replays (`buildq rehearse`): builds as they came, ran and ended. No mail address is in it. Both are
-- read in one REPEATABLE READ transaction, row by row, and lock nothing.

-- name: history_head
-- $1 since. The first line: what it is, and the most slots that the cluster had at once since then.
select jsonb_build_object('format', 'buildq history 1', 'since', buildq_time($1::timestamptz),
  'until', buildq_time(buildq_now()), 'slots', coalesce((
    select max(slots) from (
      select (select sum(o.slots) from nodes o
              where o.started_at <= greatest(n.started_at, $1::timestamptz)
                and coalesce(o.ended_at, 'infinity') > greatest(n.started_at, $1::timestamptz)) as slots
      from nodes n where coalesce(n.ended_at, 'infinity') > $1::timestamptz) as moments), 0));

-- name: history
-- $1 since. A row for each build that was enqueued since then, oldest first: JSON. Rounds are told apart by the events:
-- `queued` begins one, `started` says to which an attempt belongs. A build of the old service has no events; its status
-- and duration are what there is.
select jsonb_strip_nulls(jsonb_build_object(
    'id', b.id, 'enqueuedAt', (extract(epoch from b.enqueued_at) * 1000000)::bigint, 'customerId', b.customer_id,
    'customerName', b.customer_name, 'tier', b.tier, 'architecture', b.architecture,
    'cloudProvider', b.cloud_provider, 'pipeline', b.pipeline, 'configurationName', b.configuration_name,
    'priority', coalesce(b.asked_priority, b.priority), 'status', b.status,
    'seconds', b.build_duration_seconds, 'message', left(b.error_message, 4000), 'rounds', r.rounds))
  || jsonb_build_object('metadata', b.metadata)
from build_queue b
cross join lateral (
  select jsonb_agg(jsonb_build_object(
      'at', (extract(epoch from e.at) * 1000000)::bigint,
      'cancelledAt', (extract(epoch from e.cancelled_at) * 1000000)::bigint,
      'startedAt', (extract(epoch from a.started_at) * 1000000)::bigint, 'attempts', a.attempts)
    order by e.round) as rounds
  from (
    select round, min(at) filter (where type = 'queued') as at,
      min(at) filter (where type = 'cancelled') as cancelled_at,
      array_agg(attempt) filter (where type = 'started') as attempts
    from build_events where build_id = b.id group by round
  ) as e
  cross join lateral (
    select min(t.started_at) as started_at, coalesce(jsonb_agg(jsonb_build_object(
        'seconds', round(greatest(0, extract(epoch from t.ended_at - t.started_at)), 6), 'outcome', t.outcome,
        'kind', t.error_kind, 'message', left(t.error_message, 4000), 'step', t.step)
      order by t.attempt), '[]') as attempts
    from build_attempts t where t.build_id = b.id and t.attempt = any(e.attempts)
  ) as a
) as r
where b.enqueued_at >= $1::timestamptz
order by b.enqueued_at, b.id;
