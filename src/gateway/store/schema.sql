-- Every message writes deliveries, events and its own row, so those are kept small; docs/store.md counts them.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- What apps (user '') and users have set: one JSON value under each key.
CREATE TABLE settings (
    app TEXT NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (app, user, key)
) WITHOUT ROWID;

-- `generation`: what ends all of a user's logins raises it, and a token of another one is not taken; `ended_code`: why
-- that was. `active`: may log in.
CREATE TABLE users (
    app TEXT NOT NULL, user TEXT NOT NULL, password TEXT NOT NULL, created_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0, ended_code INTEGER, active INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (app, user)
) WITHOUT ROWID;

-- One row for each device a user has logged in on. `connection` numbers its connections; only the store gives
-- numbers out, so that no clock decides which connection is the newer one. `attached`: whether an app is, by the
-- device's last word; one that never said counts as if. `silent`: it owes an acknowledgement. `login` and what
-- follows: which login it is on and since when, and how that ended where others ended it. `instance` and what
-- follows: which machine it last greeted from, and how often another one has taken its place meanwhile. `node`: the
-- gateway that holds its connection, or held the last one; empty where a broker does.
CREATE TABLE devices (
    app TEXT NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL,
    logged_in INTEGER NOT NULL DEFAULT 0, online INTEGER NOT NULL DEFAULT 0,
    nonce TEXT NOT NULL DEFAULT '', connection INTEGER NOT NULL DEFAULT 0,
    sequence INTEGER NOT NULL DEFAULT 0,
    channel TEXT NOT NULL DEFAULT 'none', platform TEXT NOT NULL DEFAULT '', model TEXT, agent TEXT NOT NULL DEFAULT '',
    seen_ms INTEGER NOT NULL DEFAULT 0,
    login TEXT NOT NULL DEFAULT '', login_ms INTEGER NOT NULL DEFAULT 0, kicked_code INTEGER, kicked_by TEXT,
    attached INTEGER NOT NULL DEFAULT 1, silent INTEGER NOT NULL DEFAULT 0,
    instance TEXT NOT NULL DEFAULT '', turns INTEGER NOT NULL DEFAULT 0, turned_ms INTEGER NOT NULL DEFAULT 0,
    node TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (app, user, device)
) WITHOUT ROWID;
CREATE INDEX devices_by_node ON devices (node) WHERE online = 1 AND node <> '';

-- Gateways with devices of their own that share this database: a row for each start of one. Whose lease is over is dead,
-- and nobody is connected to it.
CREATE TABLE nodes (
    node TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, listens INTEGER NOT NULL DEFAULT 0,
    started_ms INTEGER NOT NULL, lease_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- What a gateway is to do with connections of its own, by the word of another.
CREATE TABLE orders (number INTEGER PRIMARY KEY, node TEXT NOT NULL, what TEXT NOT NULL);
CREATE INDEX orders_of_node ON orders (node);

-- The logins that devices have entered with, by the id their tokens bear. Login '': every token for this device that
-- was issued until then has ended.
CREATE TABLE logins (
    app TEXT NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL, login TEXT NOT NULL,
    entered_ms INTEGER NOT NULL, ended_ms INTEGER, code INTEGER,
    PRIMARY KEY (app, user, device, login)
) WITHOUT ROWID;

-- `off_until_ms`: until when the device's user has switched notifications off, by its vendor's word. A token its
-- vendor calls dead keeps its row: the device is told, and does not bind that token again. `accepted_ms`: when the
-- vendor last accepted a push for this very token; an hour late at most.
CREATE TABLE bindings (
    app TEXT NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL, notifier TEXT NOT NULL,
    token TEXT NOT NULL, sequence INTEGER NOT NULL, bound_ms INTEGER NOT NULL,
    off_until_ms INTEGER NOT NULL DEFAULT 0, dead_ms INTEGER, dead_code TEXT, accepted_ms INTEGER,
    PRIMARY KEY (app, user, device, notifier)
) WITHOUT ROWID;
CREATE INDEX bindings_by_token ON bindings (app, notifier, token);

-- Programs that may call the REST API for an app. `secret`: SHA-256, in hexadecimal.
CREATE TABLE clients (
    id TEXT PRIMARY KEY, app TEXT NOT NULL, name TEXT NOT NULL, secret TEXT NOT NULL, scope TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- What devices enrol with. `secret`: SHA-256, in hexadecimal. `user`: how their users are called. `ca`: what they are to
-- trust, where that is not the gateway's own.
CREATE TABLE enrolment_codes (
    id TEXT PRIMARY KEY, app TEXT NOT NULL, secret TEXT NOT NULL, user TEXT NOT NULL,
    uses INTEGER NOT NULL, uses_left INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL, created_by TEXT NOT NULL, revoked_ms INTEGER, ca TEXT
) WITHOUT ROWID;
CREATE UNIQUE INDEX enrolment_codes_by_secret ON enrolment_codes (app, secret);

-- Which device became which user with which code.
CREATE TABLE enrolments (
    code TEXT NOT NULL, device TEXT NOT NULL, app TEXT NOT NULL, user TEXT NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (code, device)
) WITHOUT ROWID;
CREATE INDEX enrolments_of_user ON enrolments (app, user);

CREATE TABLE certificates (
    app TEXT NOT NULL, name TEXT NOT NULL, vendor TEXT NOT NULL, fields TEXT NOT NULL,
    enabled INTEGER NOT NULL DEFAULT 1, created_ms INTEGER NOT NULL,
    PRIMARY KEY (app, name)
) WITHOUT ROWID;

-- Quotas that are used up, by their vendors' words. Token '': of the whole certificate.
CREATE TABLE limits (
    app TEXT NOT NULL, notifier TEXT NOT NULL, token TEXT NOT NULL,
    since_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL, code TEXT NOT NULL,
    PRIMARY KEY (app, notifier, token)
) WITHOUT ROWID;

-- One body for all receivers' devices of one user. An id begins with its moment, so what is old is found by ids.
CREATE TABLE messages (
    id TEXT PRIMARY KEY, app TEXT NOT NULL, user TEXT NOT NULL, message TEXT NOT NULL,
    accepted_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, idempotency TEXT
) WITHOUT ROWID;
CREATE UNIQUE INDEX messages_by_key ON messages (app, user, idempotency) WHERE idempotency IS NOT NULL;

-- Where each message stands on its way to each device. Messages that no device is there for wait under the device
-- '', for the first that comes. `open` stands apart from the state, since most change that on their way, and each
-- change would write the page of the index anew; NULL: it is done, or, on SQLite, what schema-sqlite.sql says.
-- `nonce`: the connection it is under way on, and empty everywhere else. `acked_by`: the login in whose inbox it lies on the device. `notifier` and `vendor_id`: what
-- takes the notification back, where it went to this device alone.
CREATE TABLE deliveries (
    message TEXT NOT NULL, app TEXT NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL,
    state TEXT NOT NULL, nonce TEXT NOT NULL DEFAULT '', due_ms INTEGER, attempts INTEGER NOT NULL DEFAULT 0,
    open INTEGER DEFAULT 1, acked_ms INTEGER, acked_by TEXT, taken_ms INTEGER, notifier TEXT, vendor_id TEXT,
    PRIMARY KEY (message, device)
) WITHOUT ROWID;
-- What is overdue to devices is found without a walk through what is due to vendors.
CREATE INDEX deliveries_due ON deliveries (state, due_ms) WHERE due_ms IS NOT NULL;
-- What is to be sent to a device is found beside all that lies on its disk, and what is under way to it too.
CREATE INDEX deliveries_open ON deliveries (app, user, device, open, acked_by, nonce) WHERE open = 1;

-- What happened to each message, in one numbered row that is only ever added: the trace of a message, and what
-- whoever follows all of them reads on from the number it has come to.
CREATE TABLE events (
    number INTEGER PRIMARY KEY, message TEXT NOT NULL, device TEXT NOT NULL, at_ms INTEGER NOT NULL,
    hop TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE INDEX events_of_message ON events (message);
