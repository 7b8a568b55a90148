-- Where a delivery stands is not in the index: most change it once on their way, and each change would write
-- one more page, which hardly two deliveries share.
DROP INDEX deliveries_open;
CREATE INDEX deliveries_open ON deliveries (app, user, device) WHERE state <> 'done';
-- What was sent over a connection and is not acknowledged: nothing else has a nonce.
CREATE INDEX deliveries_under_way ON deliveries (app, user, device, nonce) WHERE nonce <> '';
