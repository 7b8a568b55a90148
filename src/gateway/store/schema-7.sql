-- The login on whose device a message lies that no app has taken: it is not sent to that login again. NULL: none.
ALTER TABLE deliveries ADD COLUMN acked_by TEXT;
-- Whether an app is attached to the device, by its last word; one that never said counts as if.
ALTER TABLE devices ADD COLUMN attached INTEGER NOT NULL DEFAULT 1;
