-- Quotas that are used up, by their vendors' words. Token '': of the whole certificate.
CREATE TABLE limits (
    app TEXT NOT NULL, notifier TEXT NOT NULL, token TEXT NOT NULL,
    since_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL, code TEXT NOT NULL,
    PRIMARY KEY (app, notifier, token)
) WITHOUT ROWID;
