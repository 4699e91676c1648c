-- oldest program: 1
-- What a build needs of the server that runs it, and which servers have it. A program that knows nothing of this goes on
-- claiming everything; builds without needs cost nothing.

alter table build_queue add column needs text[] not null default '{}'; -- labels; a server that claims it has them all

-- nodes.labels, until now {}: a JSON list of texts, what the server offers.
comment on column nodes.labels is 'a JSON list of labels';
-- The operator's: no more builds until somebody says resume. A server that stops drains itself, for good.
alter table nodes add column drained_at timestamptz;

-- Those that need something; as small as they are few.
create index build_queue_needs on build_queue (enqueued_at) where status = 'pending' and needs <> '{}';

-- What no live server offers of `needs`: null when one has it all, else what is missing at the one that lacks least
-- (everything, when there is no server at all).
create function buildq_unmet(needs text[]) returns text[] language sql stable as $$
  select case when cardinality(needs) = 0 or exists (select from nodes n where n.state = 'live' and n.labels ?& needs)
    then null
    else coalesce((
      select lacking from (
        select (select coalesce(array_agg(l order by l), '{}') from unnest(needs) as l where not n.labels ? l) as lacking
        from nodes n where n.state = 'live') as each
      order by cardinality(lacking), lacking limit 1), needs) end
$$;

-- An element of GET /nodes.
create function buildq_node_view(n nodes) returns jsonb language sql stable as $$
  select jsonb_build_object('id', n.id, 'name', n.name, 'url', n.url, 'version', n.version,
    'state', case when n.state = 'draining' and n.drained_at is not null then 'drained' else n.state end,
    'slots', n.slots, 'running', (select count(*) from build_queue b where b.status = 'building' and b.node_id = n.id),
    'labels', case when jsonb_typeof(n.labels) = 'array' then n.labels else '[]' end,
    'startedAt', buildq_time(n.started_at), 'heartbeatAt', buildq_time(n.heartbeat_at),
    'heartbeatSeconds', buildq_seconds_since(n.heartbeat_at), 'endedAt', buildq_time(n.ended_at))
$$;

-- The view of a build, with its needs.
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
    'cloudProvider', b.cloud_provider, 'policyReason', b.policy_reason, 'needs', to_jsonb(b.needs))
$$;

-- Accepts a build, with its needs.
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
      claim_key, keyed_by, asked_priority, policy_reason, needs)
    values ((f ->> 'id')::uuid, f ->> 'customerId', f ->> 'customerName', f ->> 'customerEmail',
      f ->> 'configurationName', f ->> 'manifestPath', f ->> 'tier', f ->> 'architecture', f ->> 'cloudProvider',
      (f ->> 'priority')::integer, f ->> 'pipeline', coalesce(f -> 'metadata', '{}'), manifest_hash,
      coalesce((f ->> 'trusted')::boolean, false),
      coalesce(to_timestamp((f ->> 'enqueuedAt')::bigint / 1000000.0), buildq_now()),
      coalesce((f ->> 'claimKey')::bigint, 0), f ->> 'keyedBy', (f ->> 'askedPriority')::integer, f ->> 'policyReason',
      coalesce(buildq_names(f -> 'needs'), '{}'))
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
