-- oldest program: 1
-- Our own statements change many rows at once and write the history and the owed mails of all of them themselves: a
-- trigger's call for each row costs more than the row. `told` says up to which number of its history a statement has
-- done so; whoever leaves it alone, as plain SQL and our rarer statements do, has the triggers do it.
alter table build_queue add column told integer not null default 0;

create or replace trigger buildq_before_insert before insert on build_queue
  for each row when (new.told = 0) execute function buildq_before_insert();
create or replace trigger buildq_after_insert after insert on build_queue
  for each row when (new.told = 0) execute function buildq_after_insert();
create or replace trigger buildq_before_update before update on build_queue
  for each row when (new.told = old.told and (old.status is distinct from new.status
                     or old.priority is distinct from new.priority or old.enqueued_at is distinct from new.enqueued_at
                     or old.cancel_requested_at is distinct from new.cancel_requested_at))
  execute function buildq_before_update();
create or replace trigger buildq_after_update after update on build_queue
  for each row when (old.event_seq is distinct from new.event_seq and new.told is distinct from new.event_seq)
  execute function buildq_after_update();

-- build_queue_customer_list begins with its columns.
drop index build_queue_customer_time;

-- A claimed build: the view, and what only its attempt needs. As text: it is read once, by a server.
create function buildq_claimed(b build_queue, manifest jsonb) returns json language sql stable as $$
  select json_build_object(
    'id', b.id, 'status', b.status, 'progressPercent', b.progress_percent, 'currentStep', b.current_step,
    'outputPath', b.output_path, 'imageUrl', b.image_url, 'downloadUrl', b.download_url,
    'errorMessage', b.error_message, 'enqueuedAt', buildq_time(b.enqueued_at), 'startedAt', buildq_time(b.started_at),
    'completedAt', null, 'buildDurationSeconds', null, 'retryCount', b.retry_count, 'priority', b.priority,
    'attempt', b.attempt, 'pipeline', b.pipeline, 'generation', b.generation, 'nextAttemptAt', null,
    'metadata', b.metadata, 'customerId', b.customer_id, 'customerName', b.customer_name,
    'configurationName', b.configuration_name, 'tier', b.tier, 'architecture', b.architecture,
    'cloudProvider', b.cloud_provider, 'policyReason', b.policy_reason, 'needs', to_json(b.needs),
    'customerEmail', b.customer_email, 'manifestPath', b.manifest_path, 'manifest', manifest,
    'trusted', b.manifest_trusted, 'cancelRequested', false, 'cancelReason', null, 'claimKey', b.claim_key,
    'waitSeconds', greatest(0, extract(epoch from b.started_at - b.enqueued_at)))
$$;

-- Accepts builds, [EnqueueFields]: a row for each, in their order, with what buildq_enqueue answers. All or nothing. None
-- may have been decided on counts: whoever holds locks for these enqueues one at a time.
create function buildq_enqueue_all(list jsonb) returns table (place bigint, answer jsonb) language plpgsql as $$
declare
  now_at timestamptz := buildq_now();
  policy text;
  owes boolean;
begin
  select c.priority_policy, c.notifications into policy, owes from queue_control c;
  return query -- keys in their order: two servers that have the same ones don't wait in a ring
    select l.place, buildq_enqueue(l.f) from (
      select e.place, e.f from jsonb_array_elements(list) with ordinality as e(f, place)
      where e.f -> 'idempotency' ->> 'key' is not null
      order by e.f -> 'idempotency' ->> 'key' offset 0) as l;
  perform buildq_keep_manifest(m.hash, m.manifest) from (
    select distinct on (hash) encode(sha256(convert_to(e.manifest::text, 'UTF8')), 'hex') as hash, e.manifest
    from (select distinct f -> 'manifest' as manifest from jsonb_array_elements(list) as f
          where f -> 'idempotency' ->> 'key' is null) as e
    order by hash) as m;
  return query
    with given as (
      select e.place, e.f from jsonb_array_elements(list) with ordinality as e(f, place)
      where e.f -> 'idempotency' ->> 'key' is null
    ), inserted as (
      insert into build_queue as b (id, customer_id, customer_name, customer_email, configuration_name, manifest_path,
          tier, architecture, cloud_provider, priority, pipeline, metadata, manifest_hash, manifest_trusted,
          enqueued_at, updated_at, claim_key, keyed_by, asked_priority, policy_reason, event_seq, told, needs)
        select r.id, r."customerId", r."customerName", r."customerEmail", r."configurationName", r."manifestPath",
          r.tier, r.architecture, r."cloudProvider", r.priority, r.pipeline, coalesce(r.metadata, '{}'),
          encode(sha256(convert_to(r.manifest::text, 'UTF8')), 'hex'), coalesce(r.trusted, false), r.at, now_at,
          case when coalesce(r."claimKey", 0) <> 0 then r."claimKey" else buildq_claim_key(r.priority, r.at) end,
          case when coalesce(r."claimKey", 0) <> 0 then r."keyedBy" end, r."askedPriority", r."policyReason",
          r.seq, r.seq, coalesce(buildq_names(r.needs), '{}')
        from (
          select x.*, coalesce(to_timestamp(x."enqueuedAt" / 1000000.0), now_at) as at,
            1 + coalesce((select max(h.seq) from build_events h where h.build_id = x.id), 0) as seq
          from given g, jsonb_to_record(g.f) as x(id uuid, "customerId" text, "customerName" text,
            "customerEmail" text, "configurationName" text, "manifestPath" text, tier text, architecture text,
            "cloudProvider" text, priority integer, pipeline text, metadata jsonb, manifest jsonb, trusted boolean,
            "enqueuedAt" bigint, "claimKey" bigint, "keyedBy" text, "askedPriority" integer, "policyReason" text,
            needs jsonb)
          order by x.id) as r
      on conflict (id) do nothing
      returning b.id, b.event_seq, b.keyed_by,
        jsonb_strip_nulls(jsonb_build_object('priority', b.priority, 'policyReason', b.policy_reason)) as data
    ), noted as (
      insert into build_events (build_id, seq, at, type, attempt, round, data)
      select i.id, i.event_seq, now_at, 'queued', 0, 0, i.data from inserted i
    ), owed as (
      insert into outbox (build_id, event, round, attempt, data, created_at)
      select i.id, 'queued', 0, 0, i.data, now_at from inserted i where owes
      on conflict (build_id, event, round, attempt) do nothing
    ), unplaced as (
      -- Decided under another policy than the one in force: by a server that has not heard of it.
      insert into builds_to_place (build_id) select i.id from inserted i where i.keyed_by is distinct from policy
      on conflict do nothing
    )
    select g.place, jsonb_build_object('id', g.f -> 'id', 'answer', g.f -> 'answer', 'replayed', false) from given g;
  perform buildq_wake();
end $$;
