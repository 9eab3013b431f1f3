-- How many tasks failed or timed out, by tenant, agent and error: triggers count, whoever writes the list of tasks.
CREATE TABLE dead_letters (
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,     -- '' for none, as the next
    error TEXT NOT NULL,
    status TEXT NOT NULL,
    tasks BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, error, status)
);
INSERT INTO dead_letters SELECT tenant_id, coalesce(agent_id, ''), coalesce(error, ''), status, count(*)
FROM tasks WHERE status IN ('failed', 'timed_out') GROUP BY 1, 2, 3, 4;
-- The first and the last of a group.
CREATE INDEX tasks_dead_of_group ON tasks (tenant_id, coalesce(agent_id, ''), coalesce(error, ''), completed_at)
    WHERE status IN ('failed', 'timed_out');

CREATE TRIGGER dead_letter_inserted AFTER INSERT ON tasks WHEN new.status IN ('failed', 'timed_out') BEGIN
    INSERT INTO dead_letters
    VALUES (new.tenant_id, coalesce(new.agent_id, ''), coalesce(new.error, ''), new.status, 1)
    ON CONFLICT (tenant_id, agent_id, error, status) DO UPDATE SET tasks = tasks + 1;
END;
CREATE TRIGGER dead_letter_deleted AFTER DELETE ON tasks WHEN old.status IN ('failed', 'timed_out') BEGIN
    UPDATE dead_letters SET tasks = tasks - 1 WHERE tenant_id = old.tenant_id AND status = old.status
        AND agent_id = coalesce(old.agent_id, '') AND error = coalesce(old.error, '');
    DELETE FROM dead_letters WHERE tenant_id = old.tenant_id AND status = old.status
        AND agent_id = coalesce(old.agent_id, '') AND error = coalesce(old.error, '') AND tasks = 0;
END;
CREATE TRIGGER dead_letter_left AFTER UPDATE ON tasks
WHEN old.status IN ('failed', 'timed_out') AND (old.tenant_id, old.status, old.agent_id, old.error)
    IS NOT (new.tenant_id, new.status, new.agent_id, new.error)
BEGIN
    UPDATE dead_letters SET tasks = tasks - 1 WHERE tenant_id = old.tenant_id AND status = old.status
        AND agent_id = coalesce(old.agent_id, '') AND error = coalesce(old.error, '');
    DELETE FROM dead_letters WHERE tenant_id = old.tenant_id AND status = old.status
        AND agent_id = coalesce(old.agent_id, '') AND error = coalesce(old.error, '') AND tasks = 0;
END;
CREATE TRIGGER dead_letter_joined AFTER UPDATE ON tasks
WHEN new.status IN ('failed', 'timed_out') AND (old.tenant_id, old.status, old.agent_id, old.error)
    IS NOT (new.tenant_id, new.status, new.agent_id, new.error)
BEGIN
    INSERT INTO dead_letters
    VALUES (new.tenant_id, coalesce(new.agent_id, ''), coalesce(new.error, ''), new.status, 1)
    ON CONFLICT (tenant_id, agent_id, error, status) DO UPDATE SET tasks = tasks + 1;
END;
