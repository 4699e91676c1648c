-- oldest program: 1
-- Where a build stands is decided by a policy: the key it made, why, and what it needs to know of others. A program
-- that knows nothing of this goes on with the triggers' keys.

alter table build_queue
  add column keyed_by       text,    -- fingerprint of the priority policy whose key this is; null: the built-in rule's
  add column asked_priority integer, -- as it was asked for, where a policy decided otherwise
  add column policy_reason  text;    -- of the last decision about this build, in a policy's words

alter table queue_control
  add column priority_policy text,        -- fingerprint of the policy in force; null: the built-in rule
  add column placer          uuid,        -- the node that gives pending builds their new places …
  add column placer_until    timestamptz; -- … and until when nobody else does

-- Pending builds that the policy in force has not placed: they came by plain SQL, their priority was changed by hand, or
-- the policy is another one since. Empty under the built-in rule.
create table builds_to_place (
  build_id uuid primary key
);

-- Fair queueing: the tag up to which a customer's share is used, at each priority.
create table claim_tags (
  customer_id varchar(255) not null,
  priority    integer not null,
  tag         bigint not null,
  updated_at  timestamptz not null default buildq_now(),
  primary key (customer_id, priority)
);
create index claim_tags_highest on claim_tags (priority, tag desc);

-- What quotas count. Neither column of each ever changes.
create index build_queue_customer_time on build_queue (customer_id, enqueued_at);
create index build_queue_tier_time on build_queue (tier, enqueued_at);

-- A row that the trigger gave its key is placed by the policy in force, when there is one.
create or replace function buildq_before_insert() returns trigger language plpgsql as $$
begin
  if not isfinite(new.enqueued_at) then new.enqueued_at := buildq_now(); end if;
  if coalesce(new.claim_key, 0) = 0 then
    new.claim_key := buildq_claim_key(new.priority, new.enqueued_at);
    new.keyed_by := null;
    if new.status = 'pending' then
      insert into builds_to_place select new.id from queue_control where priority_policy is not null
        on conflict do nothing;
    end if;
  end if;
  new.event_seq := 1 + coalesce((select max(seq) from build_events where build_id = new.id), 0);
  return new;
end $$;

create or replace function buildq_before_update() returns trigger language plpgsql as $$
begin
  if not isfinite(new.enqueued_at) then new.enqueued_at := old.enqueued_at; end if;
  if new.status = 'pending' and new.cancel_requested_at is not null then
    new.status := 'cancelled';
    new.run_after := null;
    new.error_message := coalesce(new.cancel_reason, 'cancelled');
  end if;
  if new.status not in ('pending', 'building') and new.completed_at is null then
    new.completed_at := buildq_now();
  end if;
  if new.claim_key = old.claim_key
     and (new.priority <> old.priority or new.enqueued_at <> old.enqueued_at or new.claim_key = 0) then
    new.claim_key := buildq_claim_key(new.priority, new.enqueued_at);
    new.keyed_by := null;
    new.asked_priority := null;
    if new.status = 'pending' then
      insert into builds_to_place select new.id from queue_control where priority_policy is not null
        on conflict do nothing;
    end if;
  end if;
  if new.event_seq = old.event_seq and buildq_event_type(old, new) is not null then
    new.event_seq := old.event_seq + 1;
  end if;
  return new;
end $$;

-- The view of a build, with the reason.
create or replace function buildq_view(b build_queue) returns jsonb language sql stable as $$
  select jsonb_build_object(
    'id', b.id, 'status', b.status, 'progressPercent', b.progress_percent, 'currentStep', b.current_step,
    'outputPath', b.output_path, 'imageUrl', b.image_url, 'downloadUrl', b.download_url,
    'errorMessage', b.error_message, 'enqueuedAt', buildq_time(b.enqueued_at), 'startedAt', buildq_time(b.started_at),
    'completedAt', buildq_time(b.completed_at), 'buildDurationSeconds', b.build_duration_seconds,
    'retryCount', b.retry_count, 'priority', b.priority, 'attempt', b.attempt, 'pipeline', b.pipeline,
    'generation', b.generation,
    'nextAttemptAt', case when b.status = 'pending' then buildq_time(b.run_after) end,
    'metadata', b.metadata, 'customerId', b.customer_id, 'customerName', b.customer_name,
    'configurationName', b.configuration_name, 'tier', b.tier, 'architecture', b.architecture,
    'cloudProvider', b.cloud_provider, 'policyReason', b.policy_reason)
$$;

-- A JSON list of names as an array; none for null.
create function buildq_names(list jsonb) returns text[] language sql immutable parallel safe as $$
  select coalesce(array_agg(name), '{}') from jsonb_array_elements_text(coalesce(list, '[]')) as name
$$;

-- What a decision may count, of the names asked for. These are compared again, under a lock, when the row is written:
-- two requests at once can't both pass a limit of one.
create function buildq_counts(wanted text[], customer text, wanted_tier text) returns jsonb language sql stable as $$
  select coalesce(jsonb_object_agg(name, value), '{}') from (
    select 'customer' as name, (select jsonb_build_object('pending', count(*) filter (where status = 'pending'),
        'running', count(*) filter (where status = 'building'))
      from build_queue where customer_id = customer and status in ('pending', 'building')) as value
      where 'customer' = any(wanted)
    union all
    select 'customerUsage', (select jsonb_build_object('month', count(*),
        'today', count(*) filter (where enqueued_at >= date_trunc('day', buildq_now(), 'UTC')))
      from build_queue where customer_id = customer and enqueued_at >= date_trunc('month', buildq_now(), 'UTC'))
      where 'customerUsage' = any(wanted)
    union all
    select 'tierUsage', (select jsonb_build_object('month', count(*),
        'today', count(*) filter (where enqueued_at >= date_trunc('day', buildq_now(), 'UTC')))
      from build_queue where tier = wanted_tier and enqueued_at >= date_trunc('month', buildq_now(), 'UTC'))
      where 'tierUsage' = any(wanted)
    union all
    select 'customerTags', (select jsonb_agg(coalesce(tag, 0) order by p) from generate_series(0, 3) as p
      left join claim_tags t on t.customer_id = customer and t.priority = p)
      where 'tags' = any(wanted)
  ) as counts
$$;

-- The virtual time of a priority: the tag of the first build that waits there, else the largest that was given out.
create function buildq_virtual_time(p integer, policy text) returns bigint language sql stable as $$
  select coalesce(
    (select claim_key - ((3 - p)::bigint << 58) from build_queue
     where status = 'pending' and claim_key >= (3 - p)::bigint << 58 and claim_key < (4 - p)::bigint << 58
       and keyed_by = policy
     order by claim_key limit 1),
    (select tag from claim_tags where priority = p order by tag desc limit 1), 0)
$$;

-- What a decision may look at that nobody holds it to: it may have changed when the row is written.
create function buildq_surroundings(wanted text[], policy text) returns jsonb language sql stable as $$
  select jsonb_build_object('now', (extract(epoch from buildq_now()) * 1000000)::bigint)
    || case when 'tags' = any(wanted) then jsonb_build_object('queueTags',
        (select jsonb_agg(buildq_virtual_time(p, policy) order by p) from generate_series(0, 3) as p)) else '{}' end
    || case when 'queue' = any(wanted) then jsonb_build_object('queue', jsonb_build_object(
        'pending', (select jsonb_agg((select count(*) from build_queue where status = 'pending' and priority = p)
                                     order by p) from generate_series(0, 3) as p),
        'running', (select count(*) from build_queue where status = 'building'))) else '{}' end
$$;

-- Whoever decides on counts takes turns, by customer and by tier; always in this order, so that nobody waits in a ring.
create function buildq_lock_counts(wanted text[], customer text, wanted_tier text) returns void language plpgsql as $$
begin
  if 'tierUsage' = any(wanted) then
    perform pg_advisory_xact_lock(hashtextextended('buildq tier ' || wanted_tier, 0));
  end if;
  if wanted && array['customer', 'customerUsage', 'tags'] then
    perform pg_advisory_xact_lock(hashtextextended('buildq customer ' || customer, 0));
  end if;
end $$;

-- Accepts a build: the row, the manifest's copy, the idempotency key, the customer's tag, all or nothing. A repeat of the
-- same id, after a lost answer, changes nothing. When a decision was made on counts (`wanted`, `counts`) that are not
-- true any more, nothing is written either, and the present ones are the answer.
create or replace function buildq_enqueue(f jsonb) returns jsonb language plpgsql as $$
declare
  manifest_hash text := encode(sha256(convert_to((f -> 'manifest')::text, 'UTF8')), 'hex');
  earlier idempotency_keys;
  wanted text[] := buildq_names(f -> 'wanted');
  counts jsonb;
begin
  if f -> 'idempotency' ->> 'key' is not null then
    delete from idempotency_keys
      where key = f -> 'idempotency' ->> 'key' and created_at < buildq_now() - interval '24 hours';
    select * into earlier from idempotency_keys where key = f -> 'idempotency' ->> 'key';
  end if;
  if earlier.key is null and cardinality(wanted) > 0
     and not exists (select from build_queue where id = (f ->> 'id')::uuid) then
    perform buildq_lock_counts(wanted, f ->> 'customerId', f ->> 'tier');
    -- A statement of its own has a snapshot of its own: it sees what was committed while the lock was waited for.
    counts := buildq_counts(wanted, f ->> 'customerId', f ->> 'tier');
    if counts <> f -> 'counts' then return jsonb_build_object('changed', counts); end if;
  end if;
  if f -> 'idempotency' ->> 'key' is not null then
    insert into idempotency_keys (key, request_hash, build_id, answer)
      values (f -> 'idempotency' ->> 'key', f -> 'idempotency' ->> 'hash', (f ->> 'id')::uuid, f -> 'answer')
      on conflict (key) do nothing;
    if not found then
      select * into earlier from idempotency_keys where key = f -> 'idempotency' ->> 'key';
      if earlier.request_hash is distinct from f -> 'idempotency' ->> 'hash' then
        return jsonb_build_object('conflict', true);
      end if;
      return jsonb_build_object('id', earlier.build_id, 'answer', earlier.answer,
                                'replayed', earlier.build_id <> (f ->> 'id')::uuid);
    end if;
  end if;
  perform buildq_keep_manifest(manifest_hash, f -> 'manifest');
  insert into build_queue (id, customer_id, customer_name, customer_email, configuration_name, manifest_path, tier,
      architecture, cloud_provider, priority, pipeline, metadata, manifest_hash, manifest_trusted, enqueued_at,
      claim_key, keyed_by, asked_priority, policy_reason)
    values ((f ->> 'id')::uuid, f ->> 'customerId', f ->> 'customerName', f ->> 'customerEmail',
      f ->> 'configurationName', f ->> 'manifestPath', f ->> 'tier', f ->> 'architecture', f ->> 'cloudProvider',
      (f ->> 'priority')::integer, f ->> 'pipeline', coalesce(f -> 'metadata', '{}'), manifest_hash,
      coalesce((f ->> 'trusted')::boolean, false),
      coalesce(to_timestamp((f ->> 'enqueuedAt')::bigint / 1000000.0), buildq_now()),
      coalesce((f ->> 'claimKey')::bigint, 0), f ->> 'keyedBy', (f ->> 'askedPriority')::integer, f ->> 'policyReason')
    on conflict (id) do nothing;
  -- Decided under another policy than the one in force: by a server that has not heard of it, or hadn't a moment ago.
  insert into builds_to_place select b.id from build_queue b, queue_control c
    where b.id = (f ->> 'id')::uuid and b.status = 'pending' and b.keyed_by is distinct from c.priority_policy
    on conflict do nothing;
  if (f ->> 'tag') is not null then
    insert into claim_tags (customer_id, priority, tag)
      values (f ->> 'customerId', (f ->> 'priority')::integer, (f ->> 'tag')::bigint)
      on conflict (customer_id, priority) do update set tag = excluded.tag, updated_at = buildq_now();
  end if;
  return jsonb_build_object('id', f ->> 'id', 'answer', f -> 'answer', 'replayed', false);
end $$;

-- Gives pending builds the places that the policy in force has decided on. `places`: [{id, priority, key, reason}], `tags`:
-- [{customer, priority, tag}].
create function buildq_place(policy text, places jsonb, tags jsonb) returns integer language plpgsql as $$
declare
  placed integer;
begin
  perform from queue_control where priority_policy is not distinct from policy for share;
  if not found then return 0; end if; -- another policy is in force since
  with given as (
    select (p ->> 'id')::uuid as id, (p ->> 'priority')::integer as priority, (p ->> 'key')::bigint as key,
           p ->> 'reason' as reason
    from jsonb_array_elements(places) as p
  ), done as (
    update build_queue b set claim_key = g.key, priority = g.priority, keyed_by = policy, policy_reason = g.reason,
      asked_priority = case when g.priority <> coalesce(b.asked_priority, b.priority)
                       then coalesce(b.asked_priority, b.priority) end,
      updated_at = buildq_now()
    from (select given.* from given join build_queue on build_queue.id = given.id
          order by given.id for update of build_queue) as g
    where b.id = g.id and b.status = 'pending'
    returning b.id
  ), gone as (
    delete from builds_to_place where build_id in (select id from given)
  )
  select count(*) into placed from done;
  insert into claim_tags (customer_id, priority, tag)
    select t ->> 'customer', (t ->> 'priority')::integer, max((t ->> 'tag')::bigint) from jsonb_array_elements(tags) as t
    group by 1, 2
    on conflict (customer_id, priority)
      do update set tag = greatest(claim_tags.tag, excluded.tag), updated_at = buildq_now();
  return placed;
end $$;
