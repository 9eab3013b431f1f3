-- Experiments on live agents: the variants, the rule by which tasks get one, and what ends it.
CREATE TABLE experiments (
    experiment_id TEXT PRIMARY KEY,         -- sorts by when it was made
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    status TEXT NOT NULL,                   -- created, running or stopped
    runs_over TEXT NOT NULL,                -- tasks or inputs; '' before it runs
    unseen INTEGER NOT NULL,                -- 1: its guard has stopped it, and no person has seen that
    salt TEXT NOT NULL,
    spec TEXT NOT NULL,                     -- JSON of the request
    state TEXT NOT NULL                     -- JSON: when, by whom and why it was made, started and stopped
);
CREATE INDEX experiments_by_tenant ON experiments (tenant_id, experiment_id);
CREATE INDEX experiments_by_status ON experiments (status);
-- Made from events: the tasks of the agents that experiments are on.
CREATE TABLE experiment_tasks (
    experiment_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    seq BIGINT NOT NULL,                    -- of the event that it was accepted by
    last_seq BIGINT NOT NULL,               -- of the last event that is counted
    variant TEXT NOT NULL,
    unit TEXT NOT NULL,                     -- a hash of requester, thread or task above: these are averaged
    ended INTEGER NOT NULL DEFAULT 0,
    success INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    model_calls BIGINT NOT NULL DEFAULT 0,
    tokens BIGINT NOT NULL DEFAULT 0,
    cost_pico BIGINT,                       -- NULL where a price is unknown
    duration_ms DOUBLE PRECISION NOT NULL DEFAULT 0,
    denials INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (experiment_id, task_id)
);
CREATE INDEX experiment_tasks_by_task ON experiment_tasks (task_id);
-- Made from events: scores of those tasks. A person's later score of a name replaces the earlier one.
CREATE TABLE experiment_scores (
    tenant_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    name TEXT NOT NULL,
    scored_by TEXT NOT NULL,
    seq BIGINT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (tenant_id, task_id, name, scored_by)
);
