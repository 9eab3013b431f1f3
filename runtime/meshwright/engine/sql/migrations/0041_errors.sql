-- The tasks that ended by an error: those without one have no entry.
CREATE INDEX tasks_by_error ON tasks (tenant_id, error, seq) WHERE error IS NOT NULL;
CREATE INDEX tasks_by_agent_error ON tasks (tenant_id, agent_id, error, seq) WHERE error IS NOT NULL;
