-- oldest program: 1
-- Deliveries: what an outbox event became, one row for each channel and recipient, until it was sent or can't be.

alter table outbox
  add column taken_until       timestamptz, -- a server is expanding it, or its rules failed: not looked at before
  add column fault             text,        -- why the rules of scripts/notifications made nothing of it
  add column fault_generations text[];      -- the scripts that failed; others try at once. The last 20

-- What was owed while no program sent anything is told no more when it is old.
update outbox set state = 'skipped' where state = 'pending' and created_at < buildq_now() - interval '1 day';

create table deliveries (
  id                uuid primary key,
  outbox_id         bigint references outbox on delete cascade, -- null: a test that somebody asked for
  build_id          uuid,                             -- null: a test that shows a sample
  event             text not null,
  round             integer not null default 0,
  attempt           integer not null default 0,       -- as in outbox
  customer_id       text,
  channel           text not null,
  recipient         text not null,
  template          text not null,
  data              jsonb not null default '{}',      -- what the rule gave
  state             text not null default 'waiting' check (state in (
    'waiting',   -- for run_after: not tried yet, or to be tried again
    'sending',   -- by node_id
    'faulty',    -- the template failed: waits for other scripts
    'sent',
    'dead',      -- refused for good, or tried for too long
    'cancelled', -- by hand
    'skipped')), -- unsubscribed, or the recipient is disabled
  tries             integer not null default 0,       -- that reached for the recipient; begins anew with a requeue
  claim             integer not null default 0,       -- claims so far: the fencing token, never reset
  resend            integer not null default 0,       -- rises with each deliberate resend: a new Message-ID
  node_id           uuid,                             -- while sending
  run_after         timestamptz not null default buildq_now(),
  first_tried_at    timestamptz,                      -- since the last requeue: when trying again ends goes by it
  last_code         integer,                          -- of the server's last reply
  last_reply        text,                             -- its text, or what failed
  fault             text,                             -- of the template, with file and line
  fault_generations text[],                           -- the scripts that failed. The last 20
  message_id        text,                             -- of the last try
  reason            text,                             -- why it was skipped
  attempts          jsonb not null default '[]',      -- each claim that ended: the last 50
  created_at        timestamptz not null default buildq_now(),
  sent_at           timestamptz,
  ended_at          timestamptz,
  unique (outbox_id, channel, recipient)
);
create index deliveries_due on deliveries (run_after) where state in ('waiting', 'faulty');
create index deliveries_faulty on deliveries (id) where state = 'faulty';
create index deliveries_sending on deliveries (node_id) where state = 'sending';
create index deliveries_dead on deliveries (channel) where state = 'dead';
create index deliveries_build on deliveries (build_id, outbox_id);
create index deliveries_listed on deliveries (created_at, id);
create index deliveries_customer on deliveries (customer_id, created_at, id);
create index deliveries_tests on deliveries (created_at) where outbox_id is null;

-- Who wants no more. '' is any: of a customer, or of an address; of one event, or of all.
create table suppressions (
  channel     text not null default 'email',
  customer_id text not null default '',
  recipient   text not null default '', -- lower case
  event       text not null default '',
  reason      text,
  source      text not null,            -- who said so: command, api, link
  created_at  timestamptz not null default buildq_now(),
  primary key (channel, customer_id, recipient, event),
  check (customer_id <> '' or recipient <> '')
);
create index suppressions_recipient on suppressions (recipient) where recipient <> '';

-- Recipients that have said they are gone (HTTP 410). Nothing goes to them until somebody enables them.
create table disabled_recipients (
  channel    text not null,
  recipient  text not null,
  reason     text,
  created_at timestamptz not null default buildq_now(),
  primary key (channel, recipient)
);

-- Why this is not to be sent; null: it is.
create function buildq_skip_reason(the_channel text, the_customer text, the_recipient text, the_event text)
  returns text language sql stable as $$
  select coalesce(
    (select coalesce('disabled: ' || d.reason, 'disabled') from disabled_recipients d
      where d.channel = the_channel and d.recipient = the_recipient),
    (select 'unsubscribed by ' || s.source from suppressions s
      where s.channel = the_channel and s.event in ('', the_event)
        and ((s.recipient = '' and s.customer_id = the_customer)
          or (s.recipient = lower(the_recipient) and s.customer_id in ('', coalesce(the_customer, ''))))
      order by s.created_at limit 1))
$$;

-- The build as an event's rules and templates are given it: BuildView with what only notifications need. Which attempt
-- an event tells of stands in the history, so that a late mail of one round doesn't show the log of the next.
create function buildq_notification_build(b build_queue, the_event text, the_round integer, max_retries integer,
                                          retention_days integer) returns jsonb language sql stable as $$
  select buildq_view(b) || jsonb_build_object(
      'customerEmail', b.customer_email, 'maxRetries', max_retries,
      'errorMessage', case when the_event not in ('queued', 'started') then b.error_message end,
      'artifacts', case when the_event = 'completed' then coalesce(a.artifacts, '[]') else '[]' end,
      'logTail', case when the_event in ('failed', 'timedout') and a.log_tail <> ''
        then to_jsonb(string_to_array(rtrim(a.log_tail, E'\n'), E'\n')) else '[]' end,
      'expiresAt', case when the_event = 'completed'
        then buildq_time(b.completed_at + make_interval(days => retention_days)) end)
  from (select 1) as once
  left join build_attempts a on a.build_id = b.id and a.attempt = coalesce(
    (select e.attempt from build_events e
     where e.build_id = b.id and e.round = the_round
       and e.type = case the_event when 'completed' then 'success' else the_event end
     order by e.seq desc limit 1), b.attempt)
$$;

create function buildq_notification_customer(b build_queue) returns jsonb language sql stable as $$
  select jsonb_build_object('id', b.customer_id, 'name', b.customer_name, 'email', b.customer_email)
$$;

-- Stores what the rules made of an event: {deliveries: [{id, channel, recipient, template, data}]} or {fault: text}. The
-- first who answers counts: whoever took the event too long ago changes nothing. How many deliveries there are now.
create function buildq_outbox_expand(the_event bigint, made jsonb, the_generation text, again_seconds double precision)
  returns integer language plpgsql as $$
declare
  o outbox;
  stored integer;
begin
  select * into o from outbox where id = the_event and state = 'pending' for update;
  if not found then return null; end if;
  if made ? 'fault' then
    update outbox set fault = left(made ->> 'fault', 4000),
      fault_generations = (array_append(array_remove(coalesce(fault_generations, '{}'), the_generation),
                                        the_generation))[greatest(1, cardinality(fault_generations) - 18):],
      taken_until = buildq_now() + make_interval(secs => again_seconds)
    where id = the_event;
    return 0;
  end if;
  insert into deliveries (id, outbox_id, build_id, event, round, attempt, customer_id, channel, recipient, template,
                          data, created_at, state, reason, ended_at)
  select d.id, o.id, o.build_id, o.event, o.round, o.attempt, b.customer_id, d.channel, d.recipient,
    coalesce(d.template, o.event), coalesce(d.data, '{}'), buildq_now(),
    case when skip.reason is null then 'waiting' else 'skipped' end, skip.reason,
    case when skip.reason is not null then buildq_now() end
  from jsonb_to_recordset(made -> 'deliveries') as d(id uuid, channel text, recipient text, template text, data jsonb)
  join build_queue b on b.id = o.build_id,
    lateral (select buildq_skip_reason(d.channel, b.customer_id, d.recipient, o.event) as reason) as skip
  on conflict (outbox_id, channel, recipient) do nothing;
  get diagnostics stored = row_count;
  update outbox set state = 'expanded', fault = null, fault_generations = null, taken_until = null
    where id = the_event;
  return stored;
end $$;

-- One claim's end, kept with the row.
create function buildq_delivery_attempt(d deliveries, outcome text, code integer, reply text, message_id text)
  returns jsonb language sql stable as $$
  select coalesce(jsonb_agg(entry order by place), '[]') from (
    select entry, place from jsonb_array_elements(d.attempts || jsonb_strip_nulls(jsonb_build_object(
      'at', buildq_time(buildq_now()), 'claim', d.claim, 'node', d.node_id, 'outcome', outcome, 'code', code,
      'reply', left(reply, 1000), 'messageId', message_id))) with ordinality as all_of_them(entry, place)
    order by place desc limit 50) as last_ones
$$;

-- Records what became of a claim. outcome: sent, retry, dead, gone (dead, and the recipient is disabled), fault (of the
-- template), back (not tried). The row's new state; 'repeated' when just this was recorded before; 'stale' when somebody
-- else has it, or nobody.
create function buildq_delivery_outcome(the_id uuid, the_node uuid, the_claim integer, outcome text, code integer,
                                        reply text, retry_seconds double precision, window_seconds double precision,
                                        the_message_id text, the_generation text) returns text language plpgsql as $$
declare
  d deliveries;
  next_state text;
  due timestamptz := buildq_now() + make_interval(secs => coalesce(retry_seconds, 0));
  first_try timestamptz;
begin
  select * into d from deliveries where id = the_id for update;
  if not found then return 'stale'; end if;
  if d.state <> 'sending' or d.node_id <> the_node or d.claim <> the_claim then
    return case when d.attempts -> -1 ->> 'claim' = the_claim::text and d.attempts -> -1 ->> 'node' = the_node::text
                  and d.attempts -> -1 ->> 'outcome' = outcome then 'repeated' else 'stale' end;
  end if;
  first_try := coalesce(d.first_tried_at, buildq_now());
  next_state := case outcome
    when 'sent' then 'sent'
    when 'retry' then case when due > first_try + make_interval(secs => window_seconds) then 'dead' else 'waiting' end
    when 'fault' then 'faulty'
    when 'back' then 'waiting'
    else 'dead' end;
  update deliveries set state = next_state, node_id = null, run_after = due,
    attempts = case when outcome = 'back' then d.attempts
      else buildq_delivery_attempt(d, outcome, code, reply, the_message_id) end,
    tries = tries + (outcome not in ('fault', 'back'))::integer,
    first_tried_at = case when outcome in ('fault', 'back') then first_tried_at else first_try end,
    last_code = case when outcome in ('fault', 'back') then last_code else code end,
    last_reply = case when outcome in ('fault', 'back') then last_reply else left(reply, 4000) end,
    fault = case when outcome = 'fault' then left(reply, 4000) when outcome = 'back' then fault end,
    fault_generations = case
      when outcome = 'fault' then (array_append(array_remove(coalesce(fault_generations, '{}'), the_generation),
        the_generation))[greatest(1, cardinality(fault_generations) - 18):]
      when outcome = 'back' then fault_generations end,
    message_id = coalesce(the_message_id, message_id),
    sent_at = case when next_state = 'sent' then buildq_now() else sent_at end,
    ended_at = case when next_state in ('sent', 'dead') then buildq_now() end
  where id = the_id;
  if outcome = 'gone' then
    insert into disabled_recipients (channel, recipient, reason)
      values (d.channel, d.recipient, left(coalesce(code || ' ', '') || coalesce(reply, ''), 1000))
      on conflict do nothing;
  end if;
  return next_state;
end $$;

-- The API's form of a delivery.
create function buildq_delivery_view(d deliveries) returns jsonb language sql stable as $$
  select jsonb_build_object('id', d.id, 'buildId', d.build_id, 'event', d.event, 'round', d.round + 1,
    'attempt', d.attempt, 'customerId', d.customer_id, 'channel', d.channel, 'recipient', d.recipient,
    'template', d.template, 'state', d.state, 'tries', d.tries, 'resend', d.resend,
    'createdAt', buildq_time(d.created_at),
    'nextTryAt', case when d.state in ('waiting', 'faulty') then buildq_time(d.run_after) end,
    'sentAt', buildq_time(d.sent_at), 'endedAt', buildq_time(d.ended_at), 'node', d.node_id,
    'lastCode', d.last_code, 'lastReply', d.last_reply, 'fault', d.fault, 'reason', d.reason,
    'messageId', d.message_id, 'test', d.outbox_id is null)
$$;

create function buildq_deliveries_list(wanted_state text, wanted_channel text, wanted_build uuid, wanted_event text,
                                       customer text, to_whom text, page integer, before timestamptz, before_id uuid)
  returns table (view jsonb, at text, delivery_id uuid) language plpgsql stable
  set plan_cache_mode = force_custom_plan as $$
begin
  return query
    select buildq_delivery_view(d), extract(epoch from d.created_at)::text, d.id from deliveries d
    where (wanted_state is null or d.state = wanted_state) and (wanted_channel is null or d.channel = wanted_channel)
      and (wanted_build is null or d.build_id = wanted_build) and (wanted_event is null or d.event = wanted_event)
      and (customer is null or d.customer_id = customer) and (to_whom is null or lower(d.recipient) = lower(to_whom))
      and (before is null or (d.created_at, d.id) < (before, before_id))
    order by d.created_at desc, d.id desc
    limit page;
end $$;
