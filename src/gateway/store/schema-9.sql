-- Which machine a device id last greeted from, and how often another one has taken its place meanwhile.
ALTER TABLE devices ADD COLUMN instance TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN turns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN turned_ms INTEGER NOT NULL DEFAULT 0;
