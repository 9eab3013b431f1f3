-- The dead letters of a while: by when they ended, and by their last change.
CREATE INDEX tasks_dead_by_end ON tasks (tenant_id, completed_at) WHERE status IN ('failed', 'timed_out');
CREATE INDEX tasks_dead_by_change ON tasks (tenant_id, updated_at) WHERE status IN ('failed', 'timed_out');
