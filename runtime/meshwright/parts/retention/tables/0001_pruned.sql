-- Tasks that have left the lists by age, and whose records are still there.
CREATE TABLE pruned_tasks (
    pruned_at DOUBLE PRECISION NOT NULL,    -- unix seconds
    tenant_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    PRIMARY KEY (pruned_at, tenant_id, task_id)
);
