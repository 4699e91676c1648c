-- oldest program: 1
-- Many deliveries at once: claims go along one index and stop when they have enough, whatever waits behind.
drop index deliveries_due;
create index deliveries_due on deliveries (run_after, id) where state in ('waiting', 'faulty');

-- The build as an event's rules and templates are given it: BuildView with what only notifications need. Of `a`, the
-- attempt that the event tells of, only some events show anything. One expression, so that a statement that asks for
-- hundreds calls no function for each.
create function buildq_notified_build(b build_queue, a build_attempts, the_event text, max_retries integer,
                                      retention_days integer) returns jsonb language sql stable as $$
  select buildq_view(b) || jsonb_build_object(
      'customerEmail', b.customer_email, 'maxRetries', max_retries,
      'errorMessage', case when the_event not in ('queued', 'started') then b.error_message end,
      'artifacts', case when the_event = 'completed' then coalesce(a.artifacts, '[]') else '[]' end,
      'logTail', case when the_event in ('failed', 'timedout') and a.log_tail <> ''
        then to_jsonb(string_to_array(rtrim(a.log_tail, E'\n'), E'\n')) else '[]' end,
      'expiresAt', case when the_event = 'completed'
        then buildq_time(b.completed_at + make_interval(days => retention_days)) end)
$$;

-- Whether an event shows something of an attempt.
create function buildq_shows_attempt(the_event text) returns boolean language sql immutable as $$
  select the_event in ('completed', 'failed', 'timedout')
$$;

-- Which attempt that is: it stands in the history, so that a late mail of one round doesn't show the log of the next.
create function buildq_notified_attempt(b build_queue, the_event text, the_round integer)
  returns integer language sql stable as $$
  select coalesce(
    (select e.attempt from build_events e
     where e.build_id = b.id and e.round = the_round
       and e.type = case the_event when 'completed' then 'success' else the_event end
     order by e.seq desc limit 1), b.attempt)
$$;

create or replace function buildq_notification_build(b build_queue, the_event text, the_round integer,
                                                     max_retries integer, retention_days integer)
  returns jsonb language sql stable as $$
  select buildq_notified_build(b, a, the_event, max_retries, retention_days)
  from (select 1) as once
  left join build_attempts a on buildq_shows_attempt(the_event) and a.build_id = b.id
    and a.attempt = buildq_notified_attempt(b, the_event, the_round)
$$;

-- As it was, but the list is taken apart only when it is full.
create or replace function buildq_delivery_attempt(d deliveries, outcome text, code integer, reply text,
                                                   message_id text) returns jsonb language sql stable as $$
  select (case when jsonb_array_length(d.attempts) < 50 then d.attempts else d.attempts - 0 end)
    || jsonb_strip_nulls(jsonb_build_object(
      'at', buildq_time(buildq_now()), 'claim', d.claim, 'node', d.node_id, 'outcome', outcome, 'code', code,
      'reply', left(reply, 1000), 'messageId', message_id))
$$;
