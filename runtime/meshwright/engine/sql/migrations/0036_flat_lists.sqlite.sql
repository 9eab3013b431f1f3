-- The tasks that ended, by hour.
CREATE TABLE task_hours (
    tenant_id TEXT NOT NULL,
    time DOUBLE PRECISION NOT NULL,     -- unix seconds: when the hour begins
    agent_id TEXT NOT NULL,
    status TEXT NOT NULL,
    tasks BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, time, agent_id, status)
) WITHOUT ROWID;
CREATE INDEX task_hours_by_time ON task_hours (time);
INSERT INTO task_hours SELECT tenant_id, CAST(completed_at / 3600 AS INTEGER) * 3600, agent_id, status, count(*)
FROM tasks WHERE completed_at IS NOT NULL AND agent_id IS NOT NULL GROUP BY 1, 2, 3, 4;

-- The last changes in a thread, which is mostly that of one task.
CREATE INDEX tasks_by_change_of_thread ON tasks (thread_id, tenant_id, last_seq) WHERE thread_id <> task_id;

-- Dead letters are counted by capability too.
DROP TRIGGER dead_letter_inserted;
DROP TRIGGER dead_letter_deleted;
DROP TRIGGER dead_letter_left;
DROP TRIGGER dead_letter_joined;
DROP TABLE dead_letters;
CREATE TABLE dead_letters (
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,     -- '' for none, as the next
    error TEXT NOT NULL,
    status TEXT NOT NULL,
    capability TEXT NOT NULL,
    tasks BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, error, status, capability)
);
INSERT INTO dead_letters SELECT tenant_id, coalesce(agent_id, ''), coalesce(error, ''), status, capability, count(*)
FROM tasks WHERE status IN ('failed', 'timed_out') GROUP BY 1, 2, 3, 4, 5;
CREATE INDEX tasks_dead_of_capability
    ON tasks (tenant_id, capability, coalesce(agent_id, ''), coalesce(error, ''), completed_at)
    WHERE status IN ('failed', 'timed_out');

CREATE TRIGGER dead_letter_inserted AFTER INSERT ON tasks WHEN new.status IN ('failed', 'timed_out') BEGIN
    INSERT INTO dead_letters
    VALUES (new.tenant_id, coalesce(new.agent_id, ''), coalesce(new.error, ''), new.status, new.capability, 1)
    ON CONFLICT (tenant_id, agent_id, error, status, capability) DO UPDATE SET tasks = tasks + 1;
END;
CREATE TRIGGER dead_letter_deleted AFTER DELETE ON tasks WHEN old.status IN ('failed', 'timed_out') BEGIN
    UPDATE dead_letters SET tasks = tasks - 1 WHERE tenant_id = old.tenant_id AND status = old.status
        AND agent_id = coalesce(old.agent_id, '') AND error = coalesce(old.error, '')
        AND capability = old.capability;
    DELETE FROM dead_letters WHERE tenant_id = old.tenant_id AND status = old.status
        AND agent_id = coalesce(old.agent_id, '') AND error = coalesce(old.error, '')
        AND capability = old.capability AND tasks = 0;
END;
CREATE TRIGGER dead_letter_left AFTER UPDATE ON tasks
WHEN old.status IN ('failed', 'timed_out') AND (old.tenant_id, old.status, old.agent_id, old.error, old.capability)
    IS NOT (new.tenant_id, new.status, new.agent_id, new.error, new.capability)
BEGIN
    UPDATE dead_letters SET tasks = tasks - 1 WHERE tenant_id = old.tenant_id AND status = old.status
        AND agent_id = coalesce(old.agent_id, '') AND error = coalesce(old.error, '')
        AND capability = old.capability;
    DELETE FROM dead_letters WHERE tenant_id = old.tenant_id AND status = old.status
        AND agent_id = coalesce(old.agent_id, '') AND error = coalesce(old.error, '')
        AND capability = old.capability AND tasks = 0;
END;
CREATE TRIGGER dead_letter_joined AFTER UPDATE ON tasks
WHEN new.status IN ('failed', 'timed_out') AND (old.tenant_id, old.status, old.agent_id, old.error, old.capability)
    IS NOT (new.tenant_id, new.status, new.agent_id, new.error, new.capability)
BEGIN
    INSERT INTO dead_letters
    VALUES (new.tenant_id, coalesce(new.agent_id, ''), coalesce(new.error, ''), new.status, new.capability, 1)
    ON CONFLICT (tenant_id, agent_id, error, status, capability) DO UPDATE SET tasks = tasks + 1;
END;
