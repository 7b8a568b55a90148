-- Every message writes what follows, so it is kept small. A trace is found by its message alone, and `at`
-- orders it: milliseconds, and a number within them. What is old is found by message ids, which begin with
-- their moment. A delivery that is done stands in no index. Messages that no device is there for wait under
-- the device '', for the first that comes.
CREATE TABLE hops (
    message TEXT NOT NULL, at INTEGER NOT NULL, device TEXT NOT NULL, hop TEXT NOT NULL, detail TEXT NOT NULL,
    PRIMARY KEY (message, at)
) WITHOUT ROWID;
INSERT INTO hops (message, at, device, hop, detail)
    SELECT message, at_ms * 1000000 + id % 1000000, device, hop, detail FROM trace;
DROP TABLE trace;
INSERT INTO deliveries (message, app, user, device, state)
    SELECT id, app, user, '', 'waiting' FROM messages m
    WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.message = m.id);
DROP INDEX messages_by_user;
DROP INDEX messages_by_expiry;
DROP INDEX deliveries_by_device;
-- The id its vendor gave a push that went to this device alone, and its certificate: what a late acknowledgement
-- takes back.
ALTER TABLE deliveries ADD COLUMN vendor_id TEXT;
ALTER TABLE deliveries ADD COLUMN notifier TEXT;
CREATE INDEX deliveries_open ON deliveries (app, user, device, state) WHERE state <> 'done';
