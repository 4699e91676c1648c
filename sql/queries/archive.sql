-- `buildq archive`: builds that have ended, with all that SQL knows of them, as JSON lines; and back. Files and mails are
-- not in it.

-- name: archive_head
-- $1 before. The first line: what it is.
select jsonb_build_object('format', 'buildq archive 1', 'before', buildq_time($1::timestamptz),
  'written', buildq_time(buildq_now()));

-- name: archive
-- $1 before. A row for each build that ended before then, oldest first: JSON.
select jsonb_build_object('build', to_jsonb(b),
  'manifest', (select to_jsonb(m) from build_manifests m where m.hash = b.manifest_hash),
  'attempts', (select coalesce(jsonb_agg(to_jsonb(a) order by a.attempt), '[]') from build_attempts a
               where a.build_id = b.id),
  'events', (select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]') from build_events e where e.build_id = b.id))
from build_queue b
where b.completed_at < $1::timestamptz and b.status in ('success', 'failed', 'cancelled', 'timedout')
order by b.completed_at, b.id;

-- name: restore
-- $1 a line of an archive. Whether the build was restored; false: it is there.
select buildq_restore($1::jsonb);
