-- Servers: joining, staying alive, draining, taking over from the dead.

-- name: node_join
-- $1 id, $2 name, $3 url, $4 version, $5 slots, $6 lease in seconds, $7 labels (JSON list), $8 the operator has drained it:
-- that outlives a lost lease. A repeat changes nothing.
insert into nodes (id, name, url, version, slots, lease_seconds, labels, state, drained_at)
values ($1::uuid, $2, $3, $4, $5::integer, $6::integer, $7::jsonb, case when $8::boolean then 'draining' else 'live' end,
  case when $8::boolean then buildq_now() end)
on conflict (id) do nothing;

-- name: node_heartbeat
-- $1 id. Due every third of the lease; a gap of more than half of it breaks the row of heartbeats that a judge needs.
-- So an outage that A's heartbeats survive unbroken was too short for B's to reach the lease. No row: this node was
-- declared dead. Else one JSON object: whether the queue is paused and why, and which of this node's builds somebody wants
-- cancelled (the durable way, when the notification is lost).
with alive as (
  update nodes set heartbeat_at = buildq_now(),
    unbroken_since = case when heartbeat_at < buildq_now() - make_interval(secs => lease_seconds / 2.0)
      then buildq_now() else unbroken_since end
  where id = $1::uuid and state in ('live', 'draining')
  returning id, drained_at is not null as drained
)
select jsonb_build_object(
  'drained', drained,
  'paused', (select paused from queue_control),
  'pauseReason', (select pause_reason from queue_control),
  'cancels', (select coalesce(jsonb_agg(jsonb_build_object('id', id, 'attempt', attempt,
                'reason', cancel_reason)), '[]')
              from build_queue where status = 'building' and node_id = $1::uuid and cancel_requested_at is not null))
from alive;

-- name: node_drain
-- $1 id. No more claims; heartbeats go on while its builds end.
update nodes set state = 'draining' where id = $1::uuid and state = 'live';

-- name: node_set_drained
-- $1 id, $2 whether. The operator's drain, durable; builds that run go on. One JSON object as of nodes; no row: there is no
-- such node, or it has ended, or is stopping anyway.
update nodes set state = case when $2::boolean then 'draining' else 'live' end,
  drained_at = case when $2::boolean then coalesce(drained_at, buildq_now()) end
where id = $1::uuid and (state = 'live' or (state = 'draining' and drained_at is not null))
returning buildq_node_view(nodes);

-- name: nodes
-- $1 hours. One row: a JSON list of the servers there are, and of those that ended since then (100 at most), newest first.
select coalesce(jsonb_agg(buildq_node_view(n) order by n.state in ('stopped', 'dead'), n.started_at desc), '[]')
from (select * from nodes where state in ('live', 'draining')
        or id in (select id from nodes where ended_at > buildq_now() - make_interval(hours => $1::integer)
                  order by ended_at desc limit 100)) as n;

-- name: node_leave
-- $1 id. An orderly end.
update nodes set state = 'stopped', ended_at = buildq_now() where id = $1::uuid and state in ('live', 'draining');

-- name: node_bury
-- $1 id. The predecessor that worked in this state directory: its lock is ours, so it is dead.
update nodes set state = 'dead', ended_at = buildq_now() where id = $1::uuid and state in ('live', 'draining');

-- name: nodes_expire
-- $1 id of the judge. Another node is declared dead after its lease, but only by a node whose own heartbeats were
-- unbroken for as long: after an outage of the database nobody is robbed.
update nodes n set state = 'dead', ended_at = buildq_now()
from nodes judge
where judge.id = $1::uuid and judge.state in ('live', 'draining') and n.id <> judge.id
  and n.state in ('live', 'draining')
  and n.heartbeat_at < buildq_now() - make_interval(secs => n.lease_seconds)
  and judge.unbroken_since <= buildq_now() - make_interval(secs => n.lease_seconds)
returning n.id, n.name;

-- name: takeover
-- Builds whose node has ended go back to pending, uncharged, on their generation. One that lost more than three nodes
-- in a row may be what takes them down: it ends. Rows are locked in the order of their ids.
with orphans as (
  select b.id from build_queue b
  where b.status = 'building'
    and not exists (select from nodes n where n.id = b.node_id and n.state in ('live', 'draining'))
  order by b.id
  for update skip locked
), taken as (
  update build_queue b set
    status = case when b.cancel_requested_at is not null then 'cancelled'
                  when b.lost_nodes >= 3 then 'failed' else 'pending' end,
    error_message = case when b.cancel_requested_at is not null then coalesce(b.cancel_reason, 'cancelled')
      when b.lost_nodes >= 3 then 'the server running this build was lost more than three times in a row: '
        || 'the build may be what takes it down' end,
    completed_at = case when b.cancel_requested_at is not null or b.lost_nodes >= 3 then buildq_now() end,
    build_duration_seconds = case when b.cancel_requested_at is not null or b.lost_nodes >= 3
      then buildq_seconds_since(b.started_at) end,
    started_at = case when b.cancel_requested_at is not null or b.lost_nodes >= 3 then b.started_at end,
    lost_nodes = b.lost_nodes + 1, node_id = null, progress_percent = 0, current_step = null,
    updated_at = buildq_now()
  from orphans where b.id = orphans.id
  returning b.id, b.attempt, b.status
), noted as (
  update build_attempts a set ended_at = buildq_now(), outcome = 'lost', error_kind = 'infrastructure',
    error_message = 'the node was lost'
  from taken where a.build_id = taken.id and a.attempt = taken.attempt
)
select id, attempt, status from taken;

-- name: node_succeed
-- $1 a node that has ended, $2 the one that works in its state directory now: also of those before it.
update nodes set successor = $2::uuid where (id = $1::uuid or successor = $1::uuid) and id <> $2::uuid;

-- name: attempt_place
-- $1 build, $2 attempt. Where the node that has its files answers, or answered last; the log, when it has no file.
select coalesce(s.url, n.url), a.log
from build_attempts a left join nodes n on n.id = a.node_id left join nodes s on s.id = n.successor
where a.build_id = $1::uuid and a.attempt = $2::integer;
