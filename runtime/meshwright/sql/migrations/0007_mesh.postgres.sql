-- The mesh's tables as the seventh step of SQLite leaves them.
CREATE TABLE event_log (seq BIGINT NOT NULL);
INSERT INTO event_log VALUES (0);

CREATE TABLE events (
    seq BIGINT PRIMARY KEY,     -- the log's own number, in the order of commit, never used twice
    time DOUBLE PRECISION,      -- unix seconds: when it happened, as its source says
    event_type TEXT,
    event_version BIGINT,
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
    extra BYTEA,                -- JSON: fields that this version does not know, or NULL
    payload BYTEA               -- JSON
);
CREATE UNIQUE INDEX events_by_other_id ON events (other_id) WHERE other_id IS NOT NULL;

CREATE TABLE event_blocks (
    block BIGINT PRIMARY KEY,
    min_time DOUBLE PRECISION NOT NULL,
    max_time DOUBLE PRECISION NOT NULL,
    written_at DOUBLE PRECISION NOT NULL,
    keys BYTEA                  -- 4 bytes of hash for each key
);
ALTER TABLE event_blocks ALTER COLUMN keys SET STORAGE EXTERNAL;

CREATE TABLE projection_positions (
    name TEXT PRIMARY KEY,
    version BIGINT NOT NULL,
    position BIGINT NOT NULL
);

CREATE TABLE tasks (
    seq BIGINT PRIMARY KEY,
    last_seq BIGINT NOT NULL,
    task_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    capability TEXT NOT NULL,
    status TEXT NOT NULL,
    agent_id TEXT,
    priority BIGINT,
    requested_by TEXT,
    thread_id TEXT,
    parent_task_id TEXT,
    trace_id TEXT,
    generation BIGINT,
    attempts BIGINT,
    reason TEXT,
    created_at DOUBLE PRECISION NOT NULL,
    updated_at DOUBLE PRECISION NOT NULL,
    completed_at DOUBLE PRECISION,
    duration_ms DOUBLE PRECISION,
    model TEXT,
    prompt_tokens BIGINT,
    completion_tokens BIGINT,
    cost_usd TEXT,
    code TEXT,
    once BIGINT NOT NULL DEFAULT 0,
    UNIQUE (task_id, tenant_id)
);
CREATE INDEX tasks_by_status ON tasks (tenant_id, status, seq) WHERE status <> 'succeeded';
CREATE INDEX tasks_by_capability ON tasks (tenant_id, capability, seq);
CREATE INDEX tasks_open ON tasks (seq) WHERE completed_at IS NULL;

CREATE TABLE agent_outcomes (
    agent_id TEXT NOT NULL,
    capability TEXT NOT NULL,
    last_seq BIGINT NOT NULL,
    recent TEXT NOT NULL,
    PRIMARY KEY (agent_id, capability)
);

CREATE TABLE calls (
    seq BIGINT PRIMARY KEY,
    time DOUBLE PRECISION NOT NULL,
    tenant_id TEXT NOT NULL,
    task_id TEXT,
    thread_id TEXT,
    call_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    tags TEXT NOT NULL,
    model_group TEXT NOT NULL,
    model TEXT NOT NULL,
    deployment TEXT,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    cost_pico BIGINT,
    cost_source TEXT NOT NULL,
    cache_hit BIGINT NOT NULL,
    saved_pico BIGINT,
    attempts BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    error TEXT,
    latency_ms DOUBLE PRECISION NOT NULL,
    attempt BIGINT,
    step BIGINT
);
CREATE INDEX calls_by_time ON calls (tenant_id, time);

CREATE TABLE memories (
    n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    memory_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    text TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    task_id TEXT,
    agent_id TEXT,
    search TSVECTOR GENERATED ALWAYS AS (to_tsvector('english', text)) STORED,
    UNIQUE (tenant_id, memory_id)
);
CREATE INDEX memories_by_owner ON memories (owner);
CREATE INDEX memories_by_words ON memories USING GIN (search);
