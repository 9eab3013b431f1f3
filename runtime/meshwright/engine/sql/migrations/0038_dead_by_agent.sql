-- The dead letters of an agent and of a capability, of which a list or a retry reads a page.
CREATE INDEX tasks_dead_by_agent ON tasks (tenant_id, agent_id, seq) WHERE status IN ('failed', 'timed_out');
CREATE INDEX tasks_dead_by_capability ON tasks (tenant_id, capability, seq)
    WHERE status IN ('failed', 'timed_out');
