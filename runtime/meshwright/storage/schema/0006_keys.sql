-- Virtual keys: who may use the mesh's models. None is ever deleted, so that a revoked one is known as such.
CREATE TABLE keys (
    key_id TEXT PRIMARY KEY,
    hash BLOB NOT NULL,         -- SHA-256 of the whole key, which nobody can read again
    agent_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    budget TEXT,                -- JSON, or NULL for none of its own
    created_at TEXT NOT NULL,   -- RFC 3339
    revoked_at TEXT
) WITHOUT ROWID;
