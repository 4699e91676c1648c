-- oldest program: 1
-- A plain DELETE of builds, the old manual's clean-up, always succeeds: its events and deliveries are locked in the order
-- of their ids, as all statements on many of them do. In the order in which they lie they were locked against a
-- batch of outcomes, each waiting for the other, and PostgreSQL ended one of the two.
create or replace function buildq_after_delete() returns trigger language plpgsql as $$
begin
  perform from outbox where build_id in (select id from gone) order by id for update;
  perform from deliveries where build_id in (select id from gone) and outbox_id is not null order by id for update;
  delete from build_attempts where build_id in (select id from gone);
  delete from outbox where build_id in (select id from gone);
  return null;
end $$;

-- As 0012 has it for all of them: replacing the function has taken it back.
do $$
begin
  execute format('alter function buildq_after_delete() security definer set search_path = %I, pg_catalog, pg_temp',
    current_schema());
end $$;
