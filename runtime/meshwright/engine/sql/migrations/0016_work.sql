-- Tasks are found by what they ask for, by their last change, and by the task that they come from.
ALTER TABLE tasks ADD COLUMN text TEXT;            -- the beginning of the request
ALTER TABLE tasks ADD COLUMN forked_from TEXT;     -- the task that it goes on from
CREATE INDEX tasks_by_change ON tasks (tenant_id, last_seq);
CREATE INDEX tasks_by_parent ON tasks (parent_task_id) WHERE parent_task_id IS NOT NULL;
CREATE INDEX tasks_by_origin ON tasks (forked_from) WHERE forked_from IS NOT NULL;
