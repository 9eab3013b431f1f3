-- The virtual keys of the mesh, as their events say. Whether one counts is looked up in its actor.
CREATE TABLE virtual_keys (
    key_id TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,        -- of the event by which it was created, or 0
    document TEXT NOT NULL      -- JSON: whose it is, its budget, its times; never the key itself
);
