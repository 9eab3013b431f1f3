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

CREATE FUNCTION mesh_count_dead_letters() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    counts TEXT := format('%I.dead_letters', TG_TABLE_SCHEMA);
    of_group TEXT := ' WHERE tenant_id = $1 AND agent_id = $2 AND error = $3 AND status = $4';
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.status IN ('failed', 'timed_out') THEN
        EXECUTE 'UPDATE ' || counts || ' SET tasks = tasks - 1' || of_group
            USING OLD.tenant_id, coalesce(OLD.agent_id, ''), coalesce(OLD.error, ''), OLD.status;
        EXECUTE 'DELETE FROM ' || counts || of_group || ' AND tasks = 0'
            USING OLD.tenant_id, coalesce(OLD.agent_id, ''), coalesce(OLD.error, ''), OLD.status;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.status IN ('failed', 'timed_out') THEN
        EXECUTE 'INSERT INTO ' || counts || ' AS counted VALUES ($1, $2, $3, $4, 1) '
            'ON CONFLICT (tenant_id, agent_id, error, status) DO UPDATE SET tasks = counted.tasks + 1'
            USING NEW.tenant_id, coalesce(NEW.agent_id, ''), coalesce(NEW.error, ''), NEW.status;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER dead_letter_inserted AFTER INSERT ON tasks FOR EACH ROW
    WHEN (NEW.status IN ('failed', 'timed_out')) EXECUTE FUNCTION mesh_count_dead_letters();
CREATE TRIGGER dead_letter_deleted AFTER DELETE ON tasks FOR EACH ROW
    WHEN (OLD.status IN ('failed', 'timed_out')) EXECUTE FUNCTION mesh_count_dead_letters();
CREATE TRIGGER dead_letter_changed AFTER UPDATE ON tasks FOR EACH ROW
    WHEN (
        (OLD.status IN ('failed', 'timed_out') OR NEW.status IN ('failed', 'timed_out'))
        AND (OLD.tenant_id, OLD.status, OLD.agent_id, OLD.error)
            IS DISTINCT FROM (NEW.tenant_id, NEW.status, NEW.agent_id, NEW.error)
    ) EXECUTE FUNCTION mesh_count_dead_letters();
