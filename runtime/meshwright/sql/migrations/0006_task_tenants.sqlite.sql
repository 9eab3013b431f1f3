-- Ids of tasks are unique within a tenant, where they were unique within the mesh.
CREATE TABLE tasks_by_tenant (
    seq INTEGER PRIMARY KEY,    -- of the first event of the task; lists are in this order
    last_seq INTEGER NOT NULL,  -- of the last event that changed the row
    task_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    capability TEXT NOT NULL,
    status TEXT NOT NULL,
    agent_id TEXT,
    priority INTEGER,
    requested_by TEXT,
    thread_id TEXT,
    parent_task_id TEXT,
    trace_id TEXT,
    generation INTEGER,
    attempts INTEGER,
    reason TEXT,                -- why it waits or how it failed
    created_at REAL NOT NULL,   -- unix seconds, as the next two
    updated_at REAL NOT NULL,
    completed_at REAL,
    duration_ms REAL,
    model TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost_usd TEXT,              -- US dollars; NULL where nobody knows the price
    UNIQUE (task_id, tenant_id)
);
INSERT INTO tasks_by_tenant SELECT * FROM tasks;
DROP TABLE tasks;
ALTER TABLE tasks_by_tenant RENAME TO tasks;
CREATE INDEX tasks_by_status ON tasks (tenant_id, status, seq) WHERE status <> 'succeeded';
CREATE INDEX tasks_by_capability ON tasks (tenant_id, capability, seq);
CREATE INDEX tasks_open ON tasks (seq) WHERE completed_at IS NULL;  -- counted at each start
ALTER TABLE tasks ADD COLUMN code TEXT;  -- digest of the agent's code as its attempt began
ALTER TABLE tasks ADD COLUMN once INTEGER NOT NULL DEFAULT 0;  -- steps begun that are not idempotent
