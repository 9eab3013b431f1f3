-- Which agents have open tasks, of all tenants or of one, and how many of one.
CREATE INDEX tasks_open_of_agent ON tasks (agent_id, tenant_id, seq) WHERE completed_at IS NULL;
