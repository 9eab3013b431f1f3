-- The event log, what finds events in it, and the lists that are kept from it.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,    -- the log's own number, in the order of commit, never used twice
    time REAL,                  -- unix seconds: when it happened, as its source says
    event_type TEXT,
    event_version INTEGER,
    topic TEXT,
    tenant_id TEXT,
    task_id TEXT,
    agent_id TEXT,
    trace_id TEXT,
    traceparent TEXT,
    aggregate_id TEXT,
    own_id TEXT,                -- of an id {aggregate_id}/{own_id} of an actor's event only the end is kept,
    other_id TEXT,              -- of any other event the whole id, once
    idempotency_key TEXT,
    extra BLOB,                 -- JSON: fields that this version does not know, or NULL
    payload BLOB                -- JSON
);
CREATE UNIQUE INDEX events_by_other_id ON events (other_id) WHERE other_id IS NOT NULL;

-- Which keys occur in which block of 2,048 numbers: one entry per block instead of one per event. A search
-- reads the few blocks that can hold what it looks for, and the last one, whose keys are written when it is full.
CREATE TABLE event_keys (
    kind TEXT NOT NULL,         -- the name of the column
    key TEXT NOT NULL,
    block INTEGER NOT NULL,     -- seq / 2048
    PRIMARY KEY (kind, key, block)
) WITHOUT ROWID;

CREATE TABLE event_blocks (
    block INTEGER PRIMARY KEY,
    min_time REAL NOT NULL,     -- of its events
    max_time REAL NOT NULL,
    written_at REAL NOT NULL    -- unix seconds: when it was full
);

-- Projections: made from events alone; a rebuild makes them again.
CREATE TABLE projections (
    version INTEGER NOT NULL,   -- of what they say; 0: not made yet
    position INTEGER NOT NULL   -- the last seq that was folded in
);
INSERT INTO projections VALUES (0, 0);

CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,    -- of the first event of the task; lists are in this order
    last_seq INTEGER NOT NULL,  -- of the last event that changed the row
    task_id TEXT NOT NULL UNIQUE,
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
    cost_usd REAL               -- NULL where nobody knows the price
);
CREATE INDEX tasks_by_status ON tasks (tenant_id, status, seq) WHERE status <> 'succeeded';
CREATE INDEX tasks_by_capability ON tasks (tenant_id, capability, seq);

CREATE TABLE agent_outcomes (
    agent_id TEXT NOT NULL,
    capability TEXT NOT NULL,
    last_seq INTEGER NOT NULL,
    recent TEXT NOT NULL,       -- the last attempts, oldest first: 1 for a success, 0 for a failure
    PRIMARY KEY (agent_id, capability)
) WITHOUT ROWID;
