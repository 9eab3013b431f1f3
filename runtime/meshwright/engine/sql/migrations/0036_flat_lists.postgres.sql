-- The tasks that ended, by hour.
CREATE TABLE task_hours (
    tenant_id TEXT NOT NULL,
    time DOUBLE PRECISION NOT NULL,     -- unix seconds: when the hour begins
    agent_id TEXT NOT NULL,
    status TEXT NOT NULL,
    tasks BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, time, agent_id, status)
);
CREATE INDEX task_hours_by_time ON task_hours (time);
INSERT INTO task_hours SELECT tenant_id, floor(completed_at / 3600) * 3600, agent_id, status, count(*)
FROM tasks WHERE completed_at IS NOT NULL AND agent_id IS NOT NULL GROUP BY 1, 2, 3, 4;

-- The last changes in a thread, which is mostly that of one task.
CREATE INDEX tasks_by_change_of_thread ON tasks (thread_id, tenant_id, last_seq) WHERE thread_id <> task_id;

-- Dead letters are counted by capability too.
DROP TRIGGER dead_letter_changed ON tasks;
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

CREATE OR REPLACE FUNCTION mesh_count_dead_letters() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    counts TEXT := format('%I.dead_letters', TG_TABLE_SCHEMA);
    of_group TEXT := ' WHERE tenant_id = $1 AND agent_id = $2 AND error = $3 AND status = $4 AND capability = $5';
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.status IN ('failed', 'timed_out') THEN
        EXECUTE 'UPDATE ' || counts || ' SET tasks = tasks - 1' || of_group
            USING OLD.tenant_id, coalesce(OLD.agent_id, ''), coalesce(OLD.error, ''), OLD.status, OLD.capability;
        EXECUTE 'DELETE FROM ' || counts || of_group || ' AND tasks = 0'
            USING OLD.tenant_id, coalesce(OLD.agent_id, ''), coalesce(OLD.error, ''), OLD.status, OLD.capability;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.status IN ('failed', 'timed_out') THEN
        EXECUTE 'INSERT INTO ' || counts || ' AS counted VALUES ($1, $2, $3, $4, $5, 1) '
            'ON CONFLICT (tenant_id, agent_id, error, status, capability) DO UPDATE SET tasks = counted.tasks + 1'
            USING NEW.tenant_id, coalesce(NEW.agent_id, ''), coalesce(NEW.error, ''), NEW.status, NEW.capability;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER dead_letter_changed AFTER UPDATE ON tasks FOR EACH ROW
    WHEN (
        (OLD.status IN ('failed', 'timed_out') OR NEW.status IN ('failed', 'timed_out'))
        AND (OLD.tenant_id, OLD.status, OLD.agent_id, OLD.error, OLD.capability)
            IS DISTINCT FROM (NEW.tenant_id, NEW.status, NEW.agent_id, NEW.error, NEW.capability)
    ) EXECUTE FUNCTION mesh_count_dead_letters();
