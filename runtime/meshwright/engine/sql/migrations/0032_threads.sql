-- Tasks and calls of a thread, which is mostly that of one task and named as it is; and tasks that failed.
DROP INDEX tasks_by_thread;
CREATE INDEX tasks_by_thread ON tasks (thread_id, tenant_id, seq) WHERE thread_id <> task_id;
CREATE INDEX tasks_dead ON tasks (tenant_id, seq) WHERE status IN ('failed', 'timed_out');
CREATE INDEX calls_by_thread ON calls (thread_id, tenant_id, seq) WHERE thread_id <> task_id OR task_id IS NULL;
