-- Whether a delivery is open stands apart from where it stands: most change that on their way, and each change
-- would write the page of the index anew. NULL: it is done.
ALTER TABLE deliveries ADD COLUMN open INTEGER DEFAULT 1;
UPDATE deliveries SET open = NULL WHERE state = 'done';
DROP INDEX deliveries_open;
CREATE INDEX deliveries_open ON deliveries (app, user, device, open) WHERE open = 1;
-- What is overdue to devices is found without a walk through what is due to vendors.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (state, due_ms) WHERE due_ms IS NOT NULL;
-- What was sent over a connection and is not acknowledged: nothing else has a nonce.
CREATE INDEX deliveries_under_way ON deliveries (app, user, device, nonce) WHERE nonce <> '';
