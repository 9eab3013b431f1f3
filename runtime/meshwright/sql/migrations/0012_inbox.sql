-- What tasks wait for people to say, as their events tell. Which of it is still open, the task's own row says too.
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
