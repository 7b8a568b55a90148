-- One index for what two were for.
DROP INDEX deliveries_open;
DROP INDEX deliveries_under_way;
CREATE INDEX deliveries_open ON deliveries (app, user, device, open, acked_by, nonce) WHERE open = 1;
