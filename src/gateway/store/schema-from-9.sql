-- The traces of the version before, as events.
CREATE TABLE events (
    number INTEGER PRIMARY KEY, message TEXT NOT NULL, device TEXT NOT NULL, at_ms INTEGER NOT NULL,
    hop TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE INDEX events_of_message ON events (message);
INSERT INTO events (message, device, at_ms, hop, detail)
    SELECT message, device, at / 1000000, hop, detail FROM hops ORDER BY at;
DROP TABLE hops;
ALTER TABLE devices ADD COLUMN silent INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN acked_ms INTEGER;
ALTER TABLE deliveries ADD COLUMN taken_ms INTEGER;
-- When it was is not known; that it was is.
UPDATE deliveries SET acked_ms = (SELECT accepted_ms FROM messages WHERE id = message) WHERE acked_by IS NOT NULL;
ALTER TABLE users ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN ended_code INTEGER;
ALTER TABLE users ADD COLUMN active INTEGER NOT NULL DEFAULT 1;
CREATE TABLE logins (
    app TEXT NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL, login TEXT NOT NULL,
    entered_ms INTEGER NOT NULL, ended_ms INTEGER, code INTEGER,
    PRIMARY KEY (app, user, device, login)
) WITHOUT ROWID;
CREATE TABLE clients (
    id TEXT PRIMARY KEY, app TEXT NOT NULL, name TEXT NOT NULL, secret TEXT NOT NULL, scope TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE enrolment_codes (
    id TEXT PRIMARY KEY, app TEXT NOT NULL, secret TEXT NOT NULL, user TEXT NOT NULL,
    uses INTEGER NOT NULL, uses_left INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL, created_by TEXT NOT NULL, revoked_ms INTEGER, ca TEXT
) WITHOUT ROWID;
CREATE UNIQUE INDEX enrolment_codes_by_secret ON enrolment_codes (app, secret);
CREATE TABLE enrolments (
    code TEXT NOT NULL, device TEXT NOT NULL, app TEXT NOT NULL, user TEXT NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (code, device)
) WITHOUT ROWID;
CREATE INDEX enrolments_of_user ON enrolments (app, user);
ALTER TABLE devices ADD COLUMN node TEXT NOT NULL DEFAULT '';
CREATE INDEX devices_by_node ON devices (node) WHERE online = 1 AND node <> '';
CREATE TABLE nodes (
    node TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, listens INTEGER NOT NULL DEFAULT 0,
    started_ms INTEGER NOT NULL, lease_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE orders (number INTEGER PRIMARY KEY, node TEXT NOT NULL, what TEXT NOT NULL);
CREATE INDEX orders_of_node ON orders (node);
