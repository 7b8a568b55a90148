CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS users (
    app TEXT NOT NULL, user TEXT NOT NULL, password TEXT NOT NULL, created_ms INTEGER NOT NULL,
    PRIMARY KEY (app, user)
) WITHOUT ROWID;

-- One row per device a user has logged in on. `connection` numbers its connections; only the store
-- gives numbers out, so that no clock decides which connection is the newer one.
CREATE TABLE IF NOT EXISTS devices (
    app TEXT NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL,
    logged_in INTEGER NOT NULL DEFAULT 0, online INTEGER NOT NULL DEFAULT 0,
    nonce TEXT NOT NULL DEFAULT '', connection INTEGER NOT NULL DEFAULT 0,
    sequence INTEGER NOT NULL DEFAULT 0,
    channel TEXT NOT NULL DEFAULT 'none', platform TEXT NOT NULL DEFAULT '', model TEXT, agent TEXT NOT NULL DEFAULT '',
    seen_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (app, user, device)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS bindings (
    app TEXT NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL, notifier TEXT NOT NULL,
    token TEXT NOT NULL, sequence INTEGER NOT NULL, bound_ms INTEGER NOT NULL,
    PRIMARY KEY (app, user, device, notifier)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS bindings_by_token ON bindings (app, notifier, token);

CREATE TABLE IF NOT EXISTS certificates (
    app TEXT NOT NULL, name TEXT NOT NULL, vendor TEXT NOT NULL, fields TEXT NOT NULL,
    enabled INTEGER NOT NULL DEFAULT 1, created_ms INTEGER NOT NULL,
    PRIMARY KEY (app, name)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS messages (
    id TEXT PRIMARY KEY, app TEXT NOT NULL, user TEXT NOT NULL, message TEXT NOT NULL,
    accepted_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, idempotency TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS messages_by_user ON messages (app, user, accepted_ms);
CREATE INDEX IF NOT EXISTS messages_by_expiry ON messages (expires_ms);
CREATE UNIQUE INDEX IF NOT EXISTS messages_by_key ON messages (app, user, idempotency) WHERE idempotency IS NOT NULL;

CREATE TABLE IF NOT EXISTS deliveries (
    message TEXT NOT NULL, app TEXT NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL,
    state TEXT NOT NULL, nonce TEXT NOT NULL DEFAULT '', due_ms INTEGER, attempts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (message, device)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_by_device ON deliveries (app, user, device, state);

CREATE TABLE IF NOT EXISTS trace (
    id INTEGER PRIMARY KEY, message TEXT NOT NULL, device TEXT NOT NULL, at_ms INTEGER NOT NULL,
    hop TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS trace_by_message ON trace (message, id);
CREATE INDEX IF NOT EXISTS trace_by_time ON trace (at_ms);
