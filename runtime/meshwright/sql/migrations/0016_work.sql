-- Tasks are found by what they ask for, by their last change, and by the task that delegated them.
ALTER TABLE tasks ADD COLUMN text TEXT;    -- the beginning of the request
CREATE INDEX tasks_by_change ON tasks (tenant_id, last_seq);
CREATE INDEX tasks_by_parent ON tasks (parent_task_id) WHERE parent_task_id IS NOT NULL;
