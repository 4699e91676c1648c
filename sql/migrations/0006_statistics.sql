-- oldest program: 1
-- How long builds take: the last durations of each kind of build, so that an estimate never scans history.

-- Level 0: pipeline, tier and architecture; 1: pipeline and architecture; 2: pipeline; 3: all builds.
create table build_statistics (
  level        smallint not null,
  pipeline     text not null,               -- '' where the level has none
  tier         text not null,
  architecture text not null,
  durations    double precision[] not null, -- seconds of the last successful builds, oldest first, 200 at most
  p50          double precision not null,
  p90          double precision not null,
  mean         double precision not null,
  updated_at   timestamptz not null,
  primary key (level, pipeline, tier, architecture)
);

-- One row: builds that ended up to here are counted.
create table build_statistics_state (
  only_row     boolean primary key default true check (only_row),
  counted_to   timestamptz not null default '-infinity'
);
insert into build_statistics_state default values;

-- Adds durations to a kind of build.
create function buildq_count_durations(kind_level integer, p text, t text, a text, fresh double precision[])
  returns void language plpgsql as $$
declare
  kept double precision[];
begin
  select s.durations into kept from build_statistics s
    where s.level = kind_level and s.pipeline = p and s.tier = t and s.architecture = a;
  kept := coalesce(kept, '{}') || fresh;
  kept := kept[greatest(1, cardinality(kept) - 199):];
  insert into build_statistics as s
    select kind_level, p, t, a, kept, percentile_cont(0.5) within group (order by d),
      percentile_cont(0.9) within group (order by d), avg(d), buildq_now()
    from unnest(kept) as d
    on conflict (level, pipeline, tier, architecture) do update set durations = excluded.durations, p50 = excluded.p50,
      p90 = excluded.p90, mean = excluded.mean, updated_at = excluded.updated_at;
end $$;

-- Counts what has succeeded since the last time, by one server at a time; the others find it done. Reads `most` builds
-- at most, the newest: of a burst of more the older ones are left out. The last second is left for the next time,
-- because a finish is stamped before it commits.
create function buildq_refresh_statistics(most integer) returns void language plpgsql as $$
declare
  since timestamptz;
  till timestamptz := buildq_now() - interval '1 second';
  kind record;
begin
  if not pg_try_advisory_xact_lock(hashtext('buildq.statistics')) then return; end if;
  select counted_to into since from build_statistics_state;
  for kind in
    with ended as (
      select b.pipeline, b.tier, b.architecture, b.build_duration_seconds as seconds, b.completed_at
      from build_queue b
      where b.completed_at > since and b.completed_at <= till and b.status = 'success'
        and b.build_duration_seconds is not null
      order by b.completed_at desc limit most
    )
    select case when grouping(pipeline) = 1 then 3 when grouping(architecture) = 1 then 2
                when grouping(tier) = 1 then 1 else 0 end as level,
      coalesce(pipeline, '') as pipeline, coalesce(tier, '') as tier, coalesce(architecture, '') as architecture,
      array_agg(seconds order by completed_at) as seconds
    from ended
    group by grouping sets ((pipeline, tier, architecture), (pipeline, architecture), (pipeline), ())
    having count(*) > 0
  loop
    perform buildq_count_durations(kind.level, kind.pipeline, kind.tier, kind.architecture, kind.seconds);
  end loop;
  if till <> since then update build_statistics_state set counted_to = till; end if;
end $$;
