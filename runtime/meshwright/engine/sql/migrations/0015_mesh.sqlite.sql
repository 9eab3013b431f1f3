-- The actors. Heads and records have row ids: in a table without, a row of
-- over a kilobyte takes a page of its own, and a task writes twice as much.
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE heads (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    last_turn TEXT NOT NULL,
    sent INTEGER NOT NULL,
    wake_at REAL,               -- unix seconds
    obliged INTEGER NOT NULL,
    seen TEXT,                  -- JSON, or NULL for none
    state BLOB NOT NULL,        -- JSON
    PRIMARY KEY (type, id)
);
CREATE INDEX heads_to_wake ON heads (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX heads_obliged ON heads (type, id) WHERE obliged;

-- Messages sent and not yet taken: inserted by the sender's commit, deleted by the receiver's.
CREATE TABLE mailbox (
    n INTEGER PRIMARY KEY,      -- the order of sending
    outside INTEGER NOT NULL,   -- whether it came from outside the process, and so may come again
    message BLOB NOT NULL       -- JSON
);

-- The last group that a process of its own has written, for the mesh that outlives that process.
CREATE TABLE last_group (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id BLOB NOT NULL,
    results BLOB NOT NULL       -- of its jobs, as marshal has them
);

CREATE TABLE records (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    stream TEXT NOT NULL,
    n INTEGER NOT NULL,
    value BLOB NOT NULL,        -- JSON
    PRIMARY KEY (type, id, stream, n)
);

-- The event log. It counts in a row of its own; its rows are a hash chain.
CREATE TABLE event_log (
    seq INTEGER NOT NULL,
    hash BLOB,                  -- of the last row
    pruned_seq INTEGER,         -- the last chained row that was pruned, and its hash
    pruned_hash BLOB
);
INSERT INTO event_log VALUES (0, zeroblob(32), NULL, NULL);

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
    payload BLOB,               -- JSON
    link BLOB                   -- salt of the payload, and the beginning of the row's hash
);
CREATE UNIQUE INDEX events_by_other_id ON events (other_id) WHERE other_id IS NOT NULL;

-- One row for each full block of 2,048 numbers. A search reads the few blocks that can hold its keys, and the last.
CREATE TABLE event_blocks (
    block INTEGER PRIMARY KEY,
    min_time REAL NOT NULL,     -- of its events
    max_time REAL NOT NULL,
    written_at REAL NOT NULL,   -- unix seconds: when it was full
    keys BLOB,                  -- 4 bytes of hash for each key
    hash BLOB                   -- of the last row of the block
);

-- Projections: made from events alone; a rebuild makes them again.
CREATE TABLE projection_positions (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,   -- of what its tables say
    position INTEGER NOT NULL   -- the last seq that was folded in
) WITHOUT ROWID;

CREATE TABLE tasks (
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
    error TEXT,                 -- type of the error by which it failed
    created_at REAL NOT NULL,   -- unix seconds, as the next two
    updated_at REAL NOT NULL,
    completed_at REAL,
    duration_ms REAL,
    model TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost_usd TEXT,              -- US dollars in decimals; NULL where the price is unknown
    code TEXT,                  -- digest of the agent's code as its attempt began
    once INTEGER NOT NULL DEFAULT 0,    -- steps begun that are not idempotent
    UNIQUE (task_id, tenant_id)
);
CREATE INDEX tasks_by_status ON tasks (tenant_id, status, seq) WHERE status <> 'succeeded';
CREATE INDEX tasks_by_capability ON tasks (tenant_id, capability, seq);
CREATE INDEX tasks_open ON tasks (seq) WHERE completed_at IS NULL;  -- counted at each start

CREATE TABLE agent_outcomes (
    agent_id TEXT NOT NULL,
    capability TEXT NOT NULL,
    last_seq INTEGER NOT NULL,
    recent TEXT NOT NULL,       -- the last attempts, oldest first: 1 for a success, 0 for a failure
    PRIMARY KEY (agent_id, capability)
) WITHOUT ROWID;

-- The ledger: one row an event `model.called`, a projection as the list of tasks is one. Amounts are whole
-- picodollars (1e-12 US dollars), which SQL adds up exactly; NULL where nobody knows them.
CREATE TABLE calls (
    seq INTEGER PRIMARY KEY,    -- of the event
    time REAL NOT NULL,         -- unix seconds: when the call ended
    tenant_id TEXT NOT NULL,
    task_id TEXT,               -- NULL for a call that no task made
    thread_id TEXT,
    call_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,     -- who called: the request's `user`
    tags TEXT NOT NULL,         -- JSON list, each tag once
    model_group TEXT NOT NULL,  -- as the request names it
    model TEXT NOT NULL,        -- that answered, or ''
    deployment TEXT,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,     -- of the prompt's
    completion_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,  -- of the completion's
    cost_pico INTEGER,
    cost_source TEXT NOT NULL,  -- priced, reported or unknown
    cache_hit INTEGER NOT NULL,
    saved_pico INTEGER,         -- what an answer from the cache would have cost
    attempts INTEGER NOT NULL,  -- tries of this call
    outcome TEXT NOT NULL,      -- ok, failed or cancelled
    error TEXT,                 -- its code
    latency_ms REAL NOT NULL,
    attempt INTEGER,            -- of the task
    step INTEGER                -- of the attempt
);
CREATE INDEX calls_by_time ON calls (tenant_id, time);

-- The memories of agents: each is written once, never changed, and may be deleted.
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
