-- A token its vendor calls dead keeps its binding: the device is told, and does not bind that token again.
ALTER TABLE bindings ADD COLUMN dead_ms INTEGER;
ALTER TABLE bindings ADD COLUMN dead_code TEXT;
-- When the vendor last accepted a push for this very token; an hour late at most.
ALTER TABLE bindings ADD COLUMN accepted_ms INTEGER;
