-- Of each agent, made from events: how many of each type there were, and its last attempts.
CREATE TABLE agent_figures (
    agent_id TEXT PRIMARY KEY,  -- '' for events that name none
    last_seq BIGINT NOT NULL,
    counts TEXT NOT NULL,       -- JSON: a number for each type of event
    recent TEXT NOT NULL        -- JSON: [unix seconds, status, microseconds worked] of each, oldest first
);

-- A contract: autoscalers read it. The tasks of each app that wait for a slot or run, over all tenants; `mesh` is all.
CREATE VIEW meshwright_scale AS
WITH open_tasks AS (
    SELECT agent_id, CASE WHEN status = 'running' THEN 1 ELSE 0 END AS running
    FROM tasks
    WHERE completed_at IS NULL AND agent_id IS NOT NULL AND NOT (
        status = 'waiting' AND EXISTS (
            SELECT 1 FROM waits WHERE waits.task_id = tasks.task_id AND waits.tenant_id = tasks.tenant_id))
)
SELECT agent_id AS app, count(*) - sum(running) AS waiting, sum(running) AS running, count(*) AS value
FROM open_tasks GROUP BY agent_id
UNION ALL
SELECT 'mesh', count(*) - coalesce(sum(running), 0), coalesce(sum(running), 0), count(*) FROM open_tasks;
