-- What agents remember. A memory never changes: it is written once and may be forgotten.
CREATE TABLE memories (
    n INTEGER PRIMARY KEY,      -- the order of writing
    tenant_id TEXT NOT NULL,
    memory_id TEXT NOT NULL,
    scope TEXT NOT NULL,        -- task, agent, project or global
    scope_id TEXT NOT NULL,     -- whose; '' for global
    owner TEXT NOT NULL,        -- one word for tenant and scope, so that a search reads its own scopes only
    text TEXT NOT NULL,
    created_at REAL NOT NULL,   -- unix seconds
    task_id TEXT,
    agent_id TEXT,
    UNIQUE (tenant_id, memory_id)
);
CREATE INDEX memories_by_owner ON memories (owner);

CREATE VIRTUAL TABLE memory_text USING fts5(
    text, owner, content='memories', content_rowid='n', tokenize='porter unicode61'
);
CREATE TRIGGER memory_written AFTER INSERT ON memories BEGIN
    INSERT INTO memory_text (rowid, text, owner) VALUES (new.n, new.text, new.owner);
END;
CREATE TRIGGER memory_forgotten AFTER DELETE ON memories BEGIN
    INSERT INTO memory_text (memory_text, rowid, text, owner) VALUES ('delete', old.n, old.text, old.owner);
END;
