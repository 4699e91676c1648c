-- oldest program: 1
-- How much disk a pipeline's builds need, for admission policies: the most that was measured, half as much after a day in
-- which none needed more than that half.
create table workspace_sizes (
  pipeline    varchar(255) primary key,
  megabytes   bigint not null,
  measured_at timestamptz not null default buildq_now()
);
