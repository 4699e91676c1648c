-- oldest program: 1
-- A server has a new node id at each start, and may have another address: who works in its state directory after it, and
-- has its files.

alter table nodes add column successor uuid;
