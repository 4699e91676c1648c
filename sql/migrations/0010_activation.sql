-- oldest program: 1
-- Activation: a generation that new builds of the whole cluster start on, whatever lies on the servers' disks.

alter table queue_control
  add column active_generation text,    -- null: each server's own
  add column active_share      integer; -- percent of new builds, 1 to 100; 100 takes routes and policies along

-- Who changed it, when and why: the history, newest last. The last row is the present.
create table generation_activations (
  id         bigint generated always as identity primary key,
  at         timestamptz not null default buildq_now(),
  generation text,    -- null: released
  share      integer,
  who        text not null,
  reason     text
);

-- Builds of a generation, for the figures side by side.
create index build_attempts_generation on build_attempts (generation, started_at);

-- Which of a hundred parts a build belongs to: always the same.
create function buildq_part(id uuid) returns integer language sql immutable parallel safe as $$
  select ((hashtextextended(id::text, 0) % 100 + 100) % 100)::integer
$$;
