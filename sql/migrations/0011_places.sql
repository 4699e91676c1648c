-- oldest program: 1
-- Places of builds that wait again, and an order for those that are to be placed.

-- A change of policy brings many at once: they have the order in which they are to be placed, and batches find the next
-- ones by an index. Single ones (of plain SQL, of a hand) go before those.
alter table builds_to_place
  add column priority    integer not null default 4,
  add column enqueued_at timestamptz not null default '-infinity';
create index builds_to_place_order on builds_to_place (priority desc, enqueued_at, build_id);

-- A build that waits again may have been placed by a policy that is not in force any more. Whoever writes another
-- keyed_by than before is the one who places: no hand's change of priority.
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
  if new.claim_key = old.claim_key and new.keyed_by is not distinct from old.keyed_by
     and (new.priority <> old.priority or new.enqueued_at <> old.enqueued_at or new.claim_key = 0) then
    new.claim_key := buildq_claim_key(new.priority, new.enqueued_at);
    new.keyed_by := null;
    new.asked_priority := null;
    if new.status = 'pending' then
      insert into builds_to_place (build_id) select new.id from queue_control where priority_policy is not null
        on conflict do nothing;
    end if;
  elsif new.status = 'pending' and old.status <> 'pending' then
    insert into builds_to_place (build_id) select new.id from queue_control
      where priority_policy is distinct from new.keyed_by
      on conflict do nothing;
  end if;
  if new.event_seq = old.event_seq and buildq_event_type(old, new) is not null then
    new.event_seq := old.event_seq + 1;
  end if;
  return new;
end $$;

-- The history says from the beginning why a build stands where it stands.
create or replace function buildq_after_insert() returns trigger language plpgsql as $$
declare
  data jsonb := jsonb_strip_nulls(jsonb_build_object('priority', new.priority, 'policyReason', new.policy_reason));
begin
  insert into build_events (build_id, seq, at, type, attempt, round, data)
  values (new.id, new.event_seq, buildq_now(), case when new.status = 'pending' then 'queued' else new.status end,
          new.attempt, new.round, data);
  if new.status = 'pending' then
    perform buildq_owe(new, 'queued', 0, data);
    perform buildq_wake();
  end if;
  return null;
end $$;

-- The virtual time of a priority: the tag of the first build that waits there for its first attempt, else the largest
-- that was given out. A retry keeps its old tag: while it waited, time went on.
create or replace function buildq_virtual_time(p integer, policy text) returns bigint language sql stable as $$
  select coalesce(
    (select claim_key - ((3 - p)::bigint << 58) from build_queue
     where status = 'pending' and claim_key >= (3 - p)::bigint << 58 and claim_key < (4 - p)::bigint << 58
       and keyed_by = policy and attempt = 0
     order by claim_key limit 1),
    (select tag from claim_tags where priority = p order by tag desc limit 1), 0)
$$;
