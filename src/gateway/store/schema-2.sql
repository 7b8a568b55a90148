-- Until when a device's user has switched notifications off, by its vendor's word.
ALTER TABLE bindings ADD COLUMN off_until_ms INTEGER NOT NULL DEFAULT 0;
