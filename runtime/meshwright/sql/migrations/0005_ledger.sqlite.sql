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
    model_group TEXT NOT NULL,  -- what was asked for
    model TEXT NOT NULL,        -- what answered; '' where nothing did
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
