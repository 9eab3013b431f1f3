-- Prompts that callers register: the number of the newest version of each. A deleted name goes on counting.
CREATE TABLE prompts (
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, name)
);
-- Versions never change, and stay when their prompt is deleted: events and open tasks name them.
CREATE TABLE prompt_versions (
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    text TEXT NOT NULL,                     -- of a whole .prompt file
    digest TEXT NOT NULL,                   -- its SHA-256
    author TEXT NOT NULL,
    message TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,   -- unix seconds
    PRIMARY KEY (tenant_id, name, version)
);
-- Pointers to versions. `production` is what agents use.
CREATE TABLE prompt_labels (
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    label TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name, label)
);
