-- What apps (user '') and users have set: one JSON value under each key.
CREATE TABLE settings (
    app TEXT NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (app, user, key)
) WITHOUT ROWID;
-- Which login a device is on and since when; and how it ended, where others ended it.
ALTER TABLE devices ADD COLUMN login TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN login_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN kicked_code INTEGER;
ALTER TABLE devices ADD COLUMN kicked_by TEXT;
