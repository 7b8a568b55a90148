-- What SQLite has of its own: what is under way or waits (`open` 1) stands together, apart from what lies on devices' disks
-- (2, or NULL until it is entered, see kept.rs). Else each device's would be a page of its own to every transaction.
DROP INDEX IF EXISTS deliveries_open;
UPDATE deliveries SET open = 2 WHERE open = 1 AND acked_by IS NOT NULL;
CREATE INDEX deliveries_places ON deliveries (open, app, user, device, acked_by, nonce) WHERE open IS NOT NULL;
