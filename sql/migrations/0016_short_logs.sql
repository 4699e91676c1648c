-- oldest program: 1
-- The few lines of a build that ran no command are not worth a file: they are here, and every server has them.
alter table build_attempts add column log text; -- the whole log of an attempt that has succeeded, when it has no file
