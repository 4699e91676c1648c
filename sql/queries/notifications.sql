-- Notifications: events become deliveries, deliveries are claimed and sent; what people ask and change about them.

-- name: outbox_take
-- $1 how many, $2 the taker's generation, $3 retries of a build at most, $4 days that files are kept. Events to
-- expand: id, JSON (NotificationEvent), oldest first. Whoever takes one has 15 seconds. What the rules failed on comes
-- again with other scripts, or when its time has come.
with due as (
  select id from outbox
  where state = 'pending' and (taken_until is null or taken_until <= buildq_now()
    or (fault is not null and not $2 = any(fault_generations)))
  order by id limit $1::integer
  for update skip locked
), taken as (
  update outbox o set taken_until = buildq_now() + interval '15 seconds',
    fault_generations = case when fault is not null then array_append(fault_generations, $2) end
  from due where o.id = due.id
  returning o.*
)
select o.id, jsonb_build_object('event', o.event, 'round', o.round + 1, 'attempt', o.attempt,
    'createdAt', buildq_time(o.created_at), 'data', o.data,
    'build', buildq_notified_build(b, a, o.event, $3::integer, $4::integer),
    'customer', buildq_notification_customer(b))
from taken o
join build_queue b on b.id = o.build_id
left join build_attempts a on a.build_id = o.build_id
  and a.attempt = case when buildq_shows_attempt(o.event) then buildq_notified_attempt(b, o.event, o.round) end
order by o.id;

-- name: outbox_expand
-- $1 JSON list of {event (id), made: {deliveries: [{id, channel, recipient, template, data}]} or {fault}, generation,
-- again (seconds until a fault is tried with the same scripts again)}. A row for each, in their order: how many were
-- stored; null when another server was first.
with given as materialized (
  select e.place, x.*, x.made ? 'fault' as failed
  from jsonb_array_elements($1::jsonb) with ordinality as e(item, place),
    jsonb_to_record(e.item) as x(event bigint, made jsonb, generation text, again double precision)
), held as materialized (
  select o.id, o.build_id, o.event, o.round, o.attempt
  from (select distinct event from given) as g join outbox o on o.id = g.event
  where o.state = 'pending'
  order by o.id for update of o
), faulty as (
  update outbox o set fault = left(g.made ->> 'fault', 4000),
    fault_generations = (array_append(array_remove(coalesce(o.fault_generations, '{}'), g.generation),
                                      g.generation))[greatest(1, cardinality(o.fault_generations) - 18):],
    taken_until = buildq_now() + make_interval(secs => g.again)
  from given g join held h on h.id = g.event where o.id = h.id and g.failed
), made as materialized (
  select h.*, b.customer_id, d.id as delivery_id, d.channel, d.recipient, d.template, d.data,
    case when exists (select from suppressions) or exists (select from disabled_recipients)
      then buildq_skip_reason(d.channel, b.customer_id, d.recipient, h.event) end as reason
  from given g join held h on h.id = g.event join build_queue b on b.id = h.build_id,
    jsonb_to_recordset(g.made -> 'deliveries') as d(id uuid, channel text, recipient text, template text, data jsonb)
), stored as (
  insert into deliveries (id, outbox_id, build_id, event, round, attempt, customer_id, channel, recipient, template,
                          data, created_at, state, reason, ended_at)
  select m.delivery_id, m.id, m.build_id, m.event, m.round, m.attempt, m.customer_id, m.channel, m.recipient,
    coalesce(m.template, m.event), coalesce(m.data, '{}'), buildq_now(),
    case when m.reason is null then 'waiting' else 'skipped' end, m.reason,
    case when m.reason is not null then buildq_now() end
  from made m
  on conflict (outbox_id, channel, recipient) do nothing
  returning outbox_id
), expanded as (
  update outbox o set state = 'expanded', fault = null, fault_generations = null, taken_until = null
  from given g join held h on h.id = g.event where o.id = h.id and not g.failed
)
select case when h.id is not null then (select count(*) from stored s where s.outbox_id = h.id) end
from given g left join held h on h.id = g.event
order by g.place;

-- name: deliveries_claim
-- $1 node, $2 how many, $3 generation, $4 retries of a build at most, $5 days that files are kept, $6 what stands behind
-- the @ of Message-IDs from now on. A row for each: its state, JSON. State skipped: nothing is to be done. A customer gets what tells of one build in order: a later mail
-- waits while an earlier one is under way or due for the first time. Whether there is one is looked up by its build,
-- never among all that is pending: that is what `is true` and `offset 0` are for.
with faulty as (
  select id, run_after from deliveries
  where state = 'faulty' and not $3 = any(fault_generations)
    and exists (select from nodes where nodes.id = $1::uuid and state in ('live', 'draining'))
  order by id limit $2::integer
  for update skip locked
), due as (
  select d.id, d.run_after from deliveries d
  where d.state in ('waiting', 'faulty') and d.run_after <= buildq_now()
    and exists (select from nodes where nodes.id = $1::uuid and state in ('live', 'draining'))
    and not exists (select from deliveries e where e.build_id = d.build_id and e.outbox_id < d.outbox_id
      and e.channel = d.channel and e.recipient = d.recipient
      and (e.state = 'sending' or (e.state = 'waiting' and e.tries = 0 and e.run_after <= buildq_now())) is true)
    and not exists (select from outbox o where o.build_id = d.build_id and o.id < d.outbox_id
      and (o.state = 'pending' and o.fault is null) is true offset 0)
  order by d.run_after, d.id limit $2::integer
  for update skip locked
), chosen as (
  select id from (select * from faulty union select * from due) as both_of_them
  order by run_after, id limit $2::integer
), judged as materialized (
  select d.id, case when d.outbox_id is not null
      and (exists (select from suppressions) or exists (select from disabled_recipients))
    then buildq_skip_reason(d.channel, d.customer_id, d.recipient, d.event) end as reason
  from deliveries d join chosen using (id)
), claimed as (
  update deliveries d set
    state = case when j.reason is null then 'sending' else 'skipped' end,
    node_id = case when j.reason is null then $1::uuid end,
    claim = d.claim + (j.reason is null)::integer, reason = j.reason,
    message_domain = coalesce(d.message_domain, substring(d.message_id from '@(.*)>'), $6),
    ended_at = case when j.reason is not null then buildq_now() end
  from judged j where d.id = j.id
  returning d.*
)
select c.state, json_build_object('id', c.id, 'event', c.event, 'round', c.round + 1, 'attempt', c.attempt,
    'createdAt', buildq_time(coalesce(o.created_at, c.created_at)), 'data', c.data,
    'outboxData', coalesce(o.data, '{}'),
    'build', case when b.id is not null
      then buildq_notified_build(b, a, c.event, $4::integer, $5::integer) end,
    'customer', case when b.id is not null then buildq_notification_customer(b) end,
    'channel', c.channel, 'recipient', c.recipient, 'template', c.template, 'tries', c.tries,
    'claim', c.claim, 'resend', c.resend, 'test', c.outbox_id is null, 'messageDomain', c.message_domain,
    'threadDomain', (select coalesce(q.message_domain, substring(q.message_id from '@(.*)>')) from deliveries q
      where q.build_id = c.build_id and q.event = 'queued' and q.round = 0 and q.channel = c.channel
        and q.recipient = c.recipient and q.outbox_id is not null))
from claimed c
left join outbox o on o.id = c.outbox_id
left join build_queue b on b.id = c.build_id
left join build_attempts a on a.build_id = c.build_id
  and a.attempt = case when buildq_shows_attempt(c.event) then buildq_notified_attempt(b, c.event, c.round) end
order by c.run_after, c.id;

-- name: deliveries_takeover
-- Back to those that wait: what servers were sending that have ended. Whether they have sent it nobody knows; the next
-- try has the same Message-ID. The id of each.
with orphans as (
  select d.id from deliveries d
  where d.state = 'sending'
    and not exists (select from nodes n where n.id = d.node_id and n.state in ('live', 'draining'))
  order by d.id limit 1000
  for update skip locked
)
update deliveries d set state = 'waiting', run_after = buildq_now(),
  attempts = buildq_delivery_attempt(d, 'lost', null, 'the server that was sending it has ended', null), node_id = null
from orphans where d.id = orphans.id
returning d.id;

-- name: deliveries_release
-- $1 node, $2 ids. Back to those that wait: what this server is sending as the database sees it, and it is not: of a
-- claim whose answer was lost. The id of each.
update deliveries set state = 'waiting', node_id = null
where state = 'sending' and node_id = $1::uuid and not id = any($2::uuid[])
returning id;

-- name: delivery_outcomes
-- $1 JSON list of {id, node, claim, outcome (sent, retry, dead, gone, fault, back), code or null, reply (or fault), retry
-- (seconds until the next try), window (seconds after the first try in which there may be another), messageId or null,
-- generation}. A row for each, in their order: the state now; repeated when just this was recorded before; stale when
-- somebody else has it, or nobody. Gone is dead, and the recipient is disabled; back was not tried.
with given as materialized (
  select e.place, x.*, buildq_now() + make_interval(secs => coalesce(x.retry, 0)) as due
  from jsonb_array_elements($1::jsonb) with ordinality as e(item, place),
    jsonb_to_record(e.item) as x(id uuid, node uuid, claim integer, outcome text, code integer, reply text,
      retry double precision, "window" double precision, "messageId" text, generation text)
), held as materialized (
  select d.id, d.state, d.node_id, d.claim, d.first_tried_at, d.channel, d.recipient, d.attempts -> -1 as last
  from (select distinct id from given) as g join deliveries d on d.id = g.id
  order by d.id for update of d
), judged as materialized (
  select g.*, h.channel, h.recipient, coalesce(h.first_tried_at, buildq_now()) as first_try,
    case
      when h.state = 'sending' and h.node_id = g.node and h.claim = g.claim then
        case
          when g.outcome = 'sent' then 'sent'
          when g.outcome = 'fault' then 'faulty'
          when g.outcome = 'back' then 'waiting'
          when g.outcome = 'retry' and g.due <= coalesce(h.first_tried_at, buildq_now())
            + make_interval(secs => g."window") then 'waiting'
          else 'dead' end
      when h.last ->> 'claim' = g.claim::text and h.last ->> 'node' = g.node::text and h.last ->> 'outcome' = g.outcome
        then 'repeated'
      else 'stale' end as answer
  from given g left join held h on h.id = g.id
), changed as (
  update deliveries d set state = j.answer, node_id = null, run_after = j.due,
    attempts = case when j.outcome = 'back' then d.attempts
      else buildq_delivery_attempt(d, j.outcome, j.code, j.reply, j."messageId") end,
    tries = d.tries + (j.outcome not in ('fault', 'back'))::integer,
    first_tried_at = case when j.outcome in ('fault', 'back') then d.first_tried_at else j.first_try end,
    last_code = case when j.outcome in ('fault', 'back') then d.last_code else j.code end,
    last_reply = case when j.outcome in ('fault', 'back') then d.last_reply else left(j.reply, 4000) end,
    fault = case when j.outcome = 'fault' then left(j.reply, 4000) when j.outcome = 'back' then d.fault end,
    fault_generations = case
      when j.outcome = 'fault' then (array_append(array_remove(coalesce(d.fault_generations, '{}'), j.generation),
        j.generation))[greatest(1, cardinality(d.fault_generations) - 18):]
      when j.outcome = 'back' then d.fault_generations end,
    message_id = coalesce(j."messageId", d.message_id),
    sent_at = case when j.answer = 'sent' then buildq_now() else d.sent_at end,
    ended_at = case when j.answer in ('sent', 'dead') then buildq_now() end
  from judged j where d.id = j.id and j.answer not in ('repeated', 'stale')
), disabled as (
  insert into disabled_recipients (channel, recipient, reason)
  select channel, recipient, left(coalesce(code || ' ', '') || coalesce(reply, ''), 1000) from judged
  where outcome = 'gone' and answer = 'dead'
  on conflict do nothing
)
select answer from judged order by place;

-- name: delivery_requeue
-- $1 id, $2 whether it is sent again though it was sent (with a new Message-ID). At once, with all tries. JSON
-- {outcome: done, delivery} or {outcome: conflict, state}.
with found as materialized (
  select id, state from deliveries where id = $1::uuid for update
), changed as (
  update deliveries d set state = 'waiting', run_after = buildq_now(), tries = 0, first_tried_at = null, fault = null,
    fault_generations = null, reason = null, ended_at = null, resend = d.resend + (found.state = 'sent')::integer
  from found where d.id = found.id and (found.state in ('waiting', 'faulty', 'dead', 'cancelled', 'skipped')
                                        or (found.state = 'sent' and $2::boolean))
  returning d as delivery
)
select jsonb_build_object('outcome', 'done', 'delivery', buildq_delivery_view(delivery)) from changed
union all
select jsonb_build_object('outcome', 'conflict', 'state', state) from found where not exists (select from changed);

-- name: delivery_cancel
-- $1 id. What waits is not sent. JSON as of delivery_requeue.
with found as materialized (
  select id, state from deliveries where id = $1::uuid for update
), changed as (
  update deliveries d set state = 'cancelled', ended_at = buildq_now()
  from found where d.id = found.id and found.state in ('waiting', 'faulty')
  returning d as delivery
)
select jsonb_build_object('outcome', 'done', 'delivery', buildq_delivery_view(delivery)) from changed
union all
select jsonb_build_object('outcome', 'conflict', 'state', state) from found where not exists (select from changed);

-- name: delivery_test
-- $1 a new id, $2 channel, $3 recipient, $4 event, $5 build or null for a sample, $6 data or null. Goes out as any
-- other. JSON; no row: there is no such build.
insert into deliveries (id, build_id, event, round, attempt, customer_id, channel, recipient, template, data)
select $1::uuid, b.id, $4, coalesce(b.round, 0), case when $4 = 'retrying' then coalesce(b.attempt, 1) else 0 end,
  b.customer_id, $2, $3, $4, coalesce($6::jsonb, '{}')
from (select 1) as once left join build_queue b on b.id = $5::uuid
where $5 is null or b.id is not null
on conflict (id) do nothing
returning buildq_delivery_view(deliveries);

-- name: deliveries_list
-- $1 state, $2 channel, $3 build, $4 event, $5 customer, $6 recipient, $7 limit, $8 cursor time, $9 cursor id; each but
-- the limit may be null. JSON, seconds since 1970, id; newest first, one row more than the limit: there is a next page.
select view, at, delivery_id
from buildq_deliveries_list($1, $2, $3::uuid, $4, $5, $6, $7::integer + 1, to_timestamp($8::double precision),
                            $9::uuid);

-- name: outbox_faults
-- $1 build, $2 event, $3 customer, each or null, $4 limit. Events that the rules failed on, so that there are no
-- deliveries of them yet: JSON list of {buildId, event, round, createdAt, fault, nextTryAt}, oldest first.
select coalesce(jsonb_agg(jsonb_build_object('buildId', build_id, 'event', event, 'round', round + 1,
    'createdAt', buildq_time(created_at), 'fault', fault, 'nextTryAt', buildq_time(taken_until)) order by id), '[]')
from (
  select o.* from outbox o join build_queue b on b.id = o.build_id
  where o.state = 'pending' and o.fault is not null and ($1::uuid is null or o.build_id = $1::uuid)
    and ($2::text is null or o.event = $2) and ($3::text is null or b.customer_id = $3)
  order by o.id limit $4::integer) as faulty;

-- name: delivery_show
-- $1 id. JSON of the list, with data and attempts (oldest first, 50 at most).
select buildq_delivery_view(d) || jsonb_build_object('data', d.data, 'attempts', d.attempts)
from deliveries d where id = $1::uuid;

-- name: notification_facts
-- $1 build, $2 event, $3 retries of a build at most, $4 days that files are kept. JSON NotificationEvent of this build:
-- as the outbox has it, else as it would be now. No row: there is no such build.
select jsonb_build_object('event', $2, 'round', coalesce(o.round, b.round) + 1,
    'attempt', coalesce(o.attempt, case when $2 = 'retrying' then b.attempt else 0 end),
    'createdAt', buildq_time(coalesce(o.created_at, buildq_now())),
    'data', coalesce(o.data, jsonb_strip_nulls(jsonb_build_object('error', b.error_message))),
    'build', buildq_notification_build(b, $2, coalesce(o.round, b.round), $3::integer, $4::integer),
    'customer', buildq_notification_customer(b))
from build_queue b
left join lateral (select * from outbox where build_id = b.id and event = $2 order by id desc limit 1) as o on true
where b.id = $1::uuid;

-- name: suppress
-- $1 channel, $2 customer or '', $3 recipient or '', $4 event or '' for all, $5 reason or null, $6 source (command,
-- api, link). What waits for them is skipped. JSON of the suppression.
with kept as (
  insert into suppressions (channel, customer_id, recipient, event, reason, source)
  values ($1, $2, lower($3), $4, $5, $6)
  on conflict (channel, customer_id, recipient, event) do update
    set reason = coalesce(excluded.reason, suppressions.reason)
  returning *
), skipped as (
  update deliveries d set state = 'skipped', reason = 'unsubscribed by ' || $6, ended_at = buildq_now()
  where d.state in ('waiting', 'faulty') and d.outbox_id is not null and d.channel = $1
    and ($2 = '' or d.customer_id = $2) and ($3 = '' or lower(d.recipient) = lower($3)) and ($4 = '' or d.event = $4)
  returning d.id
)
select jsonb_build_object('channel', channel, 'customerId', nullif(customer_id, ''), 'recipient', nullif(recipient, ''),
  'event', nullif(event, ''), 'reason', reason, 'source', source, 'createdAt', buildq_time(created_at),
  'skipped', (select count(*) from skipped))
from kept;

-- name: unsuppress
-- $1 channel, $2 customer or '', $3 recipient or '', $4 event or '': exactly that one, $5 only if that source said so, or
-- null. JSON {removed}. What was skipped stays so.
with removed as (
  delete from suppressions where channel = $1 and customer_id = $2 and recipient = lower($3) and event = $4
    and ($5::text is null or source = $5)
  returning 1
)
select jsonb_build_object('removed', (select count(*) from removed));

-- name: suppressions_list
-- $1 customer or null, $2 recipient or null, $3 limit. JSON list, newest first.
select coalesce(jsonb_agg(jsonb_build_object('channel', channel, 'customerId', nullif(customer_id, ''),
  'recipient', nullif(recipient, ''), 'event', nullif(event, ''), 'reason', reason, 'source', source,
  'createdAt', buildq_time(created_at)) order by created_at desc), '[]')
from (select * from suppressions where ($1::text is null or customer_id = $1)
      and ($2::text is null or recipient = lower($2)) order by created_at desc limit $3::integer) as page;

-- name: disabled_recipients
-- $1 limit. JSON list of {channel, recipient, reason, createdAt}, newest first.
select coalesce(jsonb_agg(jsonb_build_object('channel', channel, 'recipient', recipient, 'reason', reason,
  'createdAt', buildq_time(created_at)) order by created_at desc), '[]')
from (select * from disabled_recipients order by created_at desc limit $1::integer) as page;

-- name: enable_recipient
-- $1 channel, $2 recipient. JSON {removed}. What was skipped stays so.
with removed as (
  delete from disabled_recipients where channel = $1 and recipient = $2
  returning 1
)
select jsonb_build_object('removed', (select count(*) from removed));

-- name: notification_metrics
-- As of buildq_notification_metrics (migration 0017).
select buildq_notification_metrics();

-- name: purge_deliveries
-- $1 days, $2 how many. Tests that somebody asked for; the others go with their build.
delete from deliveries where id in (
  select id from deliveries where outbox_id is null and ended_at is not null
    and created_at < buildq_now() - make_interval(days => $1::integer)
  limit $2::integer);
