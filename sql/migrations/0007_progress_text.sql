-- oldest program: 1
-- What a pipeline says of its progress within a step (build:progress). Live only: written with progress and step, shown
-- while the build runs. Not indexed, so such an update stays a HOT update.

alter table build_queue add column progress_text text;
