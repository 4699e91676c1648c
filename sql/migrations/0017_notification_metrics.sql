-- oldest program: 1
-- Figures of notifications, asked for together with the others.

-- {waiting, sending, faulty, dead: {channel: count}, oldestWaitingSeconds, events, faultyEvents}. Waiting are also
-- those that are tried again later. Only indexes that are as small as what waits, and the dead.
create function buildq_notification_metrics() returns jsonb language sql stable as $$
  with open as (
    select channel, state, count(*) as count, min(created_at) as oldest
    from deliveries where state in ('waiting', 'faulty') group by channel, state
  )
  select jsonb_build_object(
    'waiting', (select coalesce(jsonb_object_agg(channel, count), '{}') from open where state = 'waiting'),
    'faulty', (select coalesce(jsonb_object_agg(channel, count), '{}') from open where state = 'faulty'),
    'sending', (select coalesce(jsonb_object_agg(channel, count), '{}')
                from (select channel, count(*) as count from deliveries where state = 'sending' group by channel) as s),
    'dead', (select coalesce(jsonb_object_agg(channel, count), '{}')
             from (select channel, count(*) as count from deliveries where state = 'dead' group by channel) as s),
    'oldestWaitingSeconds', coalesce(buildq_seconds_since(least((select min(oldest) from open),
      (select min(created_at) from outbox where state = 'pending'))), 0),
    'events', (select count(*) from outbox where state = 'pending'),
    'faultyEvents', (select count(*) from outbox where state = 'pending' and fault is not null))
$$;
