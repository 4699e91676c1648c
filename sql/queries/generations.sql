-- Generations: which scripts there are, what builds did on them, and which is active.

-- name: generations
-- $1 how many. JSON list, last used first, with what attempts did on each (the 10,000 latest of each).
select coalesce(jsonb_agg(jsonb_build_object('hash', g.hash, 'createdAt', buildq_time(g.created_at),
    'usedAt', buildq_time(greatest(g.used_at, s.last)), 'files', (select count(*) from script_generation_files f where f.generation = g.hash),
    'builds', s.builds, 'running', s.running, 'succeeded', s.succeeded, 'failed', s.failed,
    'p50Seconds', s.p50, 'p90Seconds', s.p90) order by g.used_at desc, g.hash), '[]')
from (select * from script_generations order by used_at desc, hash limit $1::integer) as g
cross join lateral (
  select count(distinct build_id) as builds, max(started_at) as last, count(*) filter (where ended_at is null) as running,
    count(*) filter (where outcome = 'success') as succeeded,
    count(*) filter (where outcome in ('failed', 'timedout')) as failed,
    percentile_cont(0.5) within group (order by extract(epoch from ended_at - started_at))
      filter (where outcome = 'success') as p50,
    percentile_cont(0.9) within group (order by extract(epoch from ended_at - started_at))
      filter (where outcome = 'success') as p90
  from (select * from build_attempts a where a.generation = g.hash order by started_at desc limit 10000) as latest) as s;

-- name: find_generation
-- $1 the beginning of a hash. The hashes that begin so, two at most: JSON list.
select coalesce(jsonb_agg(hash), '[]') from (
  select hash from script_generations where starts_with(hash, $1) order by hash limit 2) as found;

-- name: generation_files
-- $1 hash. JSON list of {path, hash, content}, by path.
select coalesce(jsonb_agg(jsonb_build_object('path', f.path, 'hash', f.source_hash, 'content', s.content) order by f.path),
  '[]')
from script_generation_files f join script_sources s on s.hash = f.source_hash where f.generation = $1;

-- name: activation
-- What is active for the cluster: JSON {generation, share, since, who, reason}, generation null for the servers' own.
select jsonb_build_object('generation', c.active_generation, 'share', c.active_share, 'since', buildq_time(a.at),
  'who', a.who, 'reason', a.reason)
from queue_control c left join lateral (select * from generation_activations order by id desc limit 1) as a on true;

-- name: activate
-- $1 hash, or null to release, $2 share in percent, $3 who, $4 why or null. One change and its history; servers hear of it.
-- No row: there is no such generation.
with chosen as (
  select $1::text as hash where $1::text is null or exists (select from script_generations where hash = $1::text)
), changed as (
  update queue_control set active_generation = $1::text,
    active_share = case when $1::text is not null then $2::integer end
  where exists (select from chosen)
), noted as (
  insert into generation_activations (generation, share, who, reason)
  select hash, case when hash is not null then $2::integer end, $3::text, $4::text from chosen
  returning generation, share, at
), told as (
  select pg_notify('buildq_control', '') from noted
)
select jsonb_build_object('generation', generation, 'share', share, 'since', buildq_time(at), 'who', $3::text,
  'reason', $4::text)
from noted, told;

-- name: activations
-- $1 how many. The history, newest first: JSON list.
select coalesce(jsonb_agg(jsonb_build_object('at', buildq_time(at), 'generation', generation, 'share', share, 'who', who,
    'reason', reason) order by id desc), '[]')
from (select * from generation_activations order by id desc limit $1::integer) as latest;
