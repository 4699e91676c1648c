-- oldest program: 1
-- Single builds that are to be placed are placed in the order in which they came.
alter table builds_to_place alter column enqueued_at set default clock_timestamp();
