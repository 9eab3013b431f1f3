-- Questions are found by tenant, the open ones apart, by task and by age.
DROP INDEX inbox_open;
CREATE INDEX inbox_open ON inbox (tenant_id, seq, id) WHERE ended_at IS NULL OR account IS NOT NULL;
CREATE INDEX inbox_by_tenant ON inbox (tenant_id, seq, id);
CREATE INDEX inbox_of_task ON inbox (task_id, tenant_id);
CREATE INDEX inbox_by_seq ON inbox (seq);

-- Tasks are found by tenant, by agent and by their end; the open ones by thread, and by the task above them.
CREATE INDEX tasks_by_tenant ON tasks (tenant_id, seq);
CREATE INDEX tasks_by_agent ON tasks (tenant_id, agent_id, seq);
CREATE INDEX tasks_by_end ON tasks (completed_at, tenant_id, task_id) WHERE completed_at IS NOT NULL;
CREATE INDEX tasks_open_of_thread ON tasks (thread_id, tenant_id) WHERE completed_at IS NULL;
CREATE INDEX tasks_open_below ON tasks (parent_task_id)
    WHERE completed_at IS NULL AND parent_task_id IS NOT NULL;
