-- How long builds take, and why one waits.

-- name: refresh_statistics
-- $1 how many builds at most. Counts what has succeeded since the last time; by one server at a time.
select buildq_refresh_statistics($1::integer);

-- name: build_statistics
-- $1 how many. What servers keep in memory: [{level, pipeline, tier, architecture, count, p50, p90, mean}], the kinds
-- that were built last.
select coalesce(jsonb_agg(jsonb_build_object('level', level, 'pipeline', pipeline, 'tier', tier,
    'architecture', architecture, 'count', cardinality(durations), 'p50', p50, 'p90', p90, 'mean', mean)), '[]')
from (select * from build_statistics order by updated_at desc limit $1::integer) as s;

-- name: purge_statistics
-- $1 days, $2 how many. Kinds that nobody has built for so long.
delete from build_statistics where ctid in (
  select ctid from build_statistics where updated_at < buildq_now() - make_interval(days => $1::integer)
  limit $2::integer);

-- name: explain_build
-- $1 id, $2 how many of those ahead are looked at. Where a build stands and what the cluster is doing: all that a
-- forecast needs. Those ahead are read in the order of claims, so a queue of any length costs the same.
with wanted as (
  select * from build_queue where id = $1::uuid
), ahead as (
  select b.pipeline, b.tier, b.architecture from build_queue b
  where b.status = 'pending' and b.claim_key < (select claim_key from wanted where status = 'pending')
    and (b.run_after is null or b.run_after <= buildq_now())
  order by b.claim_key limit $2::integer
), kinds as (
  select pipeline, tier, architecture, count(*) as count from ahead group by 1, 2, 3 order by 4 desc limit 100
), live as (
  select coalesce(sum(slots), 0) as slots, count(*) as nodes from nodes
  where state = 'live' and labels ?& (select needs from wanted)
)
select jsonb_build_object('build', buildq_view(w),
  'ahead', (select count(*) from ahead),
  'kinds', (select coalesce(jsonb_agg(to_jsonb(k)), '[]') from kinds k),
  'running', (select coalesce(jsonb_agg(to_jsonb(r)), '[]') from (
      select pipeline, tier, architecture, jsonb_agg(buildq_seconds_since(started_at)) as elapsed
      from (select * from build_queue where status = 'building'
              and node_id in (select id from nodes where state = 'live' and labels ?& (select needs from wanted))
            limit 2000) as b
      group by pipeline, tier, architecture limit 100) as r),
  'elapsed', buildq_seconds_since(w.started_at),
  'slots', live.slots, 'nodes', live.nodes, 'unmetNeeds', to_jsonb(buildq_unmet(w.needs)),
  'paused', c.paused, 'pauseReason', c.pause_reason,
  'retrySeconds', case when w.run_after > buildq_now() then extract(epoch from w.run_after - buildq_now()) end,
  'askedPriority', w.asked_priority, 'now', extract(epoch from buildq_now()))
from wanted w, queue_control c, live;
