-- What open tasks wait for, as their events say: a row for each wait until it ends.
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
