-- The tables of the mesh, as those of SQLite: the columns are explained there.
CREATE TABLE event_log (
    seq BIGINT NOT NULL,
    hash BYTEA,
    pruned_seq BIGINT,
    pruned_hash BYTEA
);
INSERT INTO event_log VALUES (0, decode(repeat('00', 32), 'hex'), NULL, NULL);

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
    payload BYTEA,              -- JSON
    link BYTEA
);
CREATE UNIQUE INDEX events_by_other_id ON events (other_id) WHERE other_id IS NOT NULL;

CREATE TABLE event_blocks (
    block BIGINT PRIMARY KEY,
    min_time DOUBLE PRECISION NOT NULL,
    max_time DOUBLE PRECISION NOT NULL,
    written_at DOUBLE PRECISION NOT NULL,
    keys BYTEA,                 -- 4 bytes of hash for each key
    hash BYTEA
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
    error TEXT,
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

-- The actors of the workers that share the database.
CREATE TABLE workers (
    incarnation TEXT PRIMARY KEY,
    lock_key BIGINT NOT NULL,           -- of the advisory lock that its connection holds while it lives
    expires_at TIMESTAMPTZ NOT NULL,    -- of its lease
    kinds TEXT NOT NULL                 -- JSON: the types of actors that run there
);

CREATE TABLE heads (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    revision BIGINT NOT NULL,           -- 0: nothing was committed yet
    last_turn TEXT NOT NULL,
    sent BIGINT NOT NULL,
    wake_at DOUBLE PRECISION,           -- unix seconds
    obliged SMALLINT NOT NULL,
    seen BYTEA,                         -- JSON, or NULL for none
    state BYTEA NOT NULL,               -- JSON
    owner TEXT NOT NULL,                -- the incarnation that recovers it and rings its alarm
    PRIMARY KEY (type, id)
);
CREATE INDEX heads_by_owner ON heads (owner, wake_at) WHERE obliged = 1 OR wake_at IS NOT NULL;

-- Messages sent and not yet taken: inserted by the sender's commit, deleted by the receiver's.
CREATE TABLE messages (
    n BIGINT PRIMARY KEY,               -- the order of sending
    type TEXT NOT NULL,                 -- of the actor that takes it
    id TEXT NOT NULL,
    owner TEXT NOT NULL,                -- the incarnation that delivers it
    fetched SMALLINT NOT NULL,          -- whether the owner has it
    remember SMALLINT NOT NULL,         -- whether it may arrive again
    message BYTEA NOT NULL              -- JSON
);
CREATE SEQUENCE message_numbers;
CREATE INDEX messages_by_owner ON messages (owner, fetched);
CREATE INDEX messages_by_actor ON messages (type, id);

CREATE TABLE records (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    stream TEXT NOT NULL,
    n BIGINT NOT NULL,
    value BYTEA NOT NULL,               -- JSON
    PRIMARY KEY (type, id, stream, n)
);

-- The virtual keys of the mesh, as their events say. Whether one counts is looked up in its actor.
CREATE TABLE virtual_keys (
    key_id TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,        -- of the event by which it was created, or 0
    document TEXT NOT NULL      -- JSON: whose it is, its budget, its times; never the key itself
);

-- The waits of open tasks, as their events say: a row for each until it ends.
CREATE TABLE waits (
    tenant_id TEXT NOT NULL,
    wait_key TEXT NOT NULL,
    task_id TEXT NOT NULL,
    seq BIGINT NOT NULL,            -- of the event that began it
    kind TEXT NOT NULL,             -- person, task, timer, event, provider or money
    reason TEXT,
    account TEXT,                   -- of the budget that a wait for money is for
    since DOUBLE PRECISION NOT NULL, -- unix seconds, as the next
    due_at DOUBLE PRECISION,        -- when it ends by itself, or the step is tried again
    PRIMARY KEY (tenant_id, wait_key)
);
CREATE INDEX waits_of_task ON waits (task_id, tenant_id);
CREATE INDEX waits_of_account ON waits (account, tenant_id, since) WHERE account IS NOT NULL;

-- The questions of tasks to people, as their events say.
CREATE TABLE inbox (
    id TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,            -- of the first event that named it; the list is in this order
    tenant_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    generation INTEGER NOT NULL,    -- of the task, and its attempt: a later one asks again
    attempt INTEGER NOT NULL,
    account TEXT,                   -- of the budget that is asked for: one question for all tasks that wait
    ended_at DOUBLE PRECISION,      -- unix seconds, once it was answered or has expired
    document TEXT NOT NULL          -- JSON: the question, and how it ended
);
CREATE INDEX inbox_open ON inbox (tenant_id, seq) WHERE ended_at IS NULL;

-- The bytes that the events of each tenant take in the full blocks of the log: see meshwright/events/storage.py.
CREATE TABLE tenant_storage (tenant_id TEXT PRIMARY KEY, bytes BIGINT NOT NULL);
