-- oldest program: 1
-- History, claim order and owed mails come from triggers on build_queue, so that a row written by plain SQL has them
-- too.

-- The event that a change of a row is, or null. One change is one event.
create function buildq_event_type(before build_queue, after build_queue) returns text language plpgsql immutable as $$
begin
  if before.status is distinct from after.status then
    if after.status = 'building' then return 'started'; end if;
    if after.status <> 'pending' then return after.status; end if;
    if before.status <> 'building' then return 'queued'; end if;
    if after.retry_count > before.retry_count then return 'retrying'; end if;
    return 'requeued';
  end if;
  if before.cancel_requested_at is null and after.cancel_requested_at is not null then
    return 'cancel_requested';
  end if;
  if before.priority <> after.priority then return 'priority'; end if;
  return null;
end $$;

-- The row's numbers are taken while it is locked. Numbers of history go on where an earlier row of this id left off. A
-- row with no real time of its own came now: one odd row must not fail the statements that read many.
create function buildq_before_insert() returns trigger language plpgsql as $$
begin
  if not isfinite(new.enqueued_at) then new.enqueued_at := buildq_now(); end if;
  if coalesce(new.claim_key, 0) = 0 then new.claim_key := buildq_claim_key(new.priority, new.enqueued_at); end if;
  new.event_seq := 1 + coalesce((select max(seq) from build_events where build_id = new.id), 0);
  return new;
end $$;

create trigger buildq_before_insert before insert on build_queue
  for each row execute function buildq_before_insert();

-- A hand's UPDATE of priority takes effect, unless the writer gives a key of its own. A build that somebody wants
-- cancelled never waits for another attempt. What has ended has a time of its end: retention and figures go by it.
create function buildq_before_update() returns trigger language plpgsql as $$
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
  end if;
  if new.event_seq = old.event_seq and buildq_event_type(old, new) is not null then
    new.event_seq := old.event_seq + 1;
  end if;
  return new;
end $$;

create trigger buildq_before_update before update on build_queue
  for each row when (old.status is distinct from new.status or old.priority is distinct from new.priority
                     or old.enqueued_at is distinct from new.enqueued_at
                     or old.cancel_requested_at is distinct from new.cancel_requested_at)
  execute function buildq_before_update();

-- The mail that an event owes; repeats within a round only where they are events of their own.
create function buildq_owe(build build_queue, event text, attempt integer, data jsonb) returns void
  language sql as $$
  insert into outbox (build_id, event, round, attempt, data)
  select build.id, buildq_owe.event, build.round, buildq_owe.attempt, buildq_owe.data
  from queue_control where notifications
  on conflict (build_id, event, round, attempt) do nothing
$$;

-- Tells the servers that something is due. NOTIFY takes a lock of the whole database at commit, so a writer of many
-- rows that announces them itself (a server does, for many at once) says so: set buildq.announces = 'on'.
create function buildq_wake() returns void language plpgsql as $$
begin
  if current_setting('buildq.announces', true) is distinct from 'on' then perform pg_notify('buildq_wake', ''); end if;
end $$;

create function buildq_after_insert() returns trigger language plpgsql as $$
begin
  insert into build_events (build_id, seq, at, type, attempt, round, data)
  values (new.id, new.event_seq, buildq_now(), case when new.status = 'pending' then 'queued' else new.status end,
          new.attempt, new.round, jsonb_build_object('priority', new.priority));
  if new.status = 'pending' then
    perform buildq_owe(new, 'queued', 0, jsonb_build_object('priority', new.priority));
    perform buildq_wake();
  end if;
  return null;
end $$;

create trigger buildq_after_insert after insert on build_queue
  for each row execute function buildq_after_insert();

create function buildq_after_update() returns trigger language plpgsql as $$
declare
  type text := buildq_event_type(old, new);
  data jsonb;
begin
  data := case type
    when 'queued' then jsonb_build_object('priority', new.priority)
    when 'started' then jsonb_build_object('node', new.node_id)
    when 'retrying' then jsonb_build_object('error', new.error_message, 'retryCount', new.retry_count,
                                            'nextAttemptAt', buildq_time(new.run_after))
    when 'success' then jsonb_build_object('outputPath', new.output_path, 'downloadUrl', new.download_url,
                                           'imageUrl', new.image_url)
    when 'priority' then jsonb_build_object('from', old.priority, 'to', new.priority)
    when 'cancel_requested' then jsonb_build_object('reason', new.cancel_reason)
    else jsonb_build_object('error', new.error_message)
  end;
  data := jsonb_strip_nulls(data);
  insert into build_events (build_id, seq, at, type, attempt, round, data)
  values (new.id, new.event_seq, buildq_now(), type, new.attempt, new.round, data);
  if type = 'success' then
    perform buildq_owe(new, 'completed', 0, data);
  elsif type in ('queued', 'started', 'failed', 'timedout', 'cancelled') then
    perform buildq_owe(new, type, 0, data);
  elsif type = 'retrying' then
    perform buildq_owe(new, type, new.attempt, data);
  elsif type = 'cancel_requested' then
    perform pg_notify('buildq_control', new.id::text);
  end if;
  if new.status = 'pending' and (new.run_after is null or new.run_after <= buildq_now()) then
    perform buildq_wake();
  end if;
  return null;
end $$;

create trigger buildq_after_update after update on build_queue
  for each row when (old.event_seq is distinct from new.event_seq)
  execute function buildq_after_update();

create function buildq_control_changed() returns trigger language plpgsql as $$
begin
  perform pg_notify('buildq_control', '');
  return null;
end $$;

create trigger buildq_control_changed after update on queue_control
  for each row when (old.paused is distinct from new.paused)
  execute function buildq_control_changed();

-- The old manual's clean-up is a plain DELETE: it takes along what belongs to the build, and the history stays.
create function buildq_after_delete() returns trigger language plpgsql as $$
begin
  delete from build_attempts where build_id in (select id from gone);
  delete from outbox where build_id in (select id from gone);
  return null;
end $$;

create trigger buildq_after_delete after delete on build_queue
  referencing old table as gone
  for each statement execute function buildq_after_delete();

-- The body of GET /builds/{id}.
create function buildq_view(b build_queue) returns jsonb language sql stable as $$
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
    'cloudProvider', b.cloud_provider)
$$;

-- Keeps a copy of a manifest, once. Its time of use is renewed so seldom that builds of one manifest don't wait for
-- each other, and often enough that purge_manifests never takes what was just enqueued.
create function buildq_keep_manifest(wanted text, manifest jsonb) returns void language plpgsql as $$
begin
  if exists (select from build_manifests where hash = wanted and used_at > buildq_now() - interval '12 hours') then
    return;
  end if;
  insert into build_manifests (hash, content) values (wanted, manifest)
    on conflict (hash) do update set used_at = excluded.used_at;
end $$;

-- Accepts a build: the row, the manifest's copy, the idempotency key, all or nothing. A repeat of the same id, after a
-- lost answer, changes nothing.
create function buildq_enqueue(f jsonb) returns jsonb language plpgsql as $$
declare
  manifest_hash text := encode(sha256(convert_to((f -> 'manifest')::text, 'UTF8')), 'hex');
  earlier idempotency_keys;
begin
  if f -> 'idempotency' ->> 'key' is not null then
    delete from idempotency_keys
      where key = f -> 'idempotency' ->> 'key' and created_at < buildq_now() - interval '24 hours';
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
      architecture, cloud_provider, priority, pipeline, metadata, manifest_hash, manifest_trusted, enqueued_at)
    values ((f ->> 'id')::uuid, f ->> 'customerId', f ->> 'customerName', f ->> 'customerEmail',
      f ->> 'configurationName', f ->> 'manifestPath', f ->> 'tier', f ->> 'architecture', f ->> 'cloudProvider',
      (f ->> 'priority')::integer, f ->> 'pipeline', coalesce(f -> 'metadata', '{}'), manifest_hash,
      coalesce((f ->> 'trusted')::boolean, false), buildq_now())
    on conflict (id) do nothing;
  return jsonb_build_object('id', f ->> 'id', 'answer', f -> 'answer', 'replayed', false);
end $$;
