-- oldest program: 1
-- What stands behind the @ of a delivery's Message-ID, since its first claim. The sender's address may be another one
-- when it is tried again: the id may not be, since the first try may have arrived.
alter table deliveries add column message_domain text;
