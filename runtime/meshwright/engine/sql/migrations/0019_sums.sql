-- Calls of tasks whose records are gone, in sums: see meshwright/ledger/task_costs.py.
CREATE TABLE call_sums (
    seq BIGINT NOT NULL,            -- the last of the block of events that the calls are of; 0 once it is pruned
    time DOUBLE PRECISION NOT NULL, -- unix seconds: when the hour begins in which the calls ended
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    model TEXT NOT NULL,
    prompt TEXT NOT NULL,           -- '' for none
    tags TEXT NOT NULL,             -- as those of calls
    calls BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cache_hits BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,       -- calls whose cost is unknown
    cost_millions BIGINT,           -- picodollars in two parts; NULL where none is known, as the next
    cost_rest BIGINT,
    estimated_millions BIGINT,
    estimated_rest BIGINT,
    saved_millions BIGINT,
    saved_rest BIGINT,
    PRIMARY KEY (seq, time, tenant_id, agent_id, model, prompt, tags)
);

-- The calls of a task are found whether a prompt was made for them or not.
DROP INDEX calls_of_task;
CREATE INDEX calls_of_task ON calls (task_id, tenant_id, prompt) WHERE task_id IS NOT NULL;

-- The tasks of a thread, which is mostly that of one task and named as it is.
CREATE INDEX tasks_by_thread ON tasks (thread_id, tenant_id) WHERE thread_id <> task_id;
