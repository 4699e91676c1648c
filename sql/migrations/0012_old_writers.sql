-- oldest program: 1
-- Programs that write build_queue by plain SQL have rights on that table, and on none of ours. What triggers do for them is
-- done with the rights of the owner of these functions, who made the tables. The search path is fixed, so that nobody's
-- own objects are taken for ours.
do $$
declare
  name text;
begin
  foreach name in array array['buildq_before_insert()', 'buildq_before_update()', 'buildq_after_insert()',
    'buildq_after_update()', 'buildq_after_delete()', 'update_build_queue_updated_at()'] loop
    execute format('alter function %s security definer set search_path = %I, pg_catalog, pg_temp', name, current_schema());
  end loop;
end $$;
