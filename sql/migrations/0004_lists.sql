-- oldest program: 1
-- Lists of builds are planned for the filters that are really given: one plan for all of them reads the whole table for
-- a customer with few builds, or a state that few are in.

-- A customer's builds in the order they are listed. Neither column changes.
create index build_queue_customer_list on build_queue (customer_id, enqueued_at, id);

create function buildq_list(wanted_status text, customer text, page integer, before timestamptz, before_id uuid,
                            wanted_metadata jsonb)
  returns table (view jsonb, at text, build_id uuid) language plpgsql stable
  set plan_cache_mode = force_custom_plan as $$
begin
  return query
    select buildq_view(b), extract(epoch from b.enqueued_at)::text, b.id from build_queue b
    where (wanted_status is null or b.status = wanted_status) and (customer is null or b.customer_id = customer)
      and (wanted_metadata is null or b.metadata @> wanted_metadata)
      and (before is null or (b.enqueued_at, b.id) < (before, before_id))
    order by b.enqueued_at desc, b.id desc
    limit page;
end $$;
