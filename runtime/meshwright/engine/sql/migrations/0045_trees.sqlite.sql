-- The tasks below each task, and the calls of all of them in sums, so that a tree's costs are read at once.
CREATE TABLE tasks_below (
    task_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    below BIGINT NOT NULL,          -- tasks, at most 50 levels down
    depth BIGINT NOT NULL,          -- of the deepest that there was
    PRIMARY KEY (task_id, tenant_id)
) WITHOUT ROWID;
CREATE TABLE calls_below (
    task_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    is_child BIGINT NOT NULL,       -- 1 for calls of tasks that it delegated itself
    agent_id TEXT NOT NULL,         -- this and the rest as in call_hours
    model TEXT NOT NULL,
    deployment TEXT NOT NULL,
    prompt TEXT NOT NULL,
    tags TEXT NOT NULL,
    calls BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cache_hits BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    cost_millions BIGINT NOT NULL,
    cost_rest BIGINT NOT NULL,
    estimated_millions BIGINT NOT NULL,
    estimated_rest BIGINT NOT NULL,
    saved_millions BIGINT NOT NULL,
    saved_rest BIGINT NOT NULL,
    PRIMARY KEY (task_id, tenant_id, is_child, agent_id, model, deployment, prompt, tags)
) WITHOUT ROWID;

INSERT INTO tasks_below
WITH RECURSIVE above (task_id, tenant_id, id, depth) AS (
    SELECT task_id, tenant_id, parent_task_id, 1 FROM tasks WHERE parent_task_id IS NOT NULL UNION ALL
    SELECT above.task_id, above.tenant_id, tasks.parent_task_id, depth + 1 FROM above JOIN tasks
    ON tasks.task_id = above.id AND tasks.tenant_id = above.tenant_id
    WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
), pairs AS (SELECT task_id, tenant_id, id, min(depth) AS depth FROM above GROUP BY 1, 2, 3)
SELECT id, tenant_id, count(*), max(depth) FROM pairs GROUP BY 1, 2;
INSERT INTO calls_below
WITH RECURSIVE above (task_id, tenant_id, id, depth) AS (
    SELECT task_id, tenant_id, parent_task_id, 1 FROM tasks WHERE parent_task_id IS NOT NULL UNION ALL
    SELECT above.task_id, above.tenant_id, tasks.parent_task_id, depth + 1 FROM above JOIN tasks
    ON tasks.task_id = above.id AND tasks.tenant_id = above.tenant_id
    WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
), pairs AS (SELECT task_id, tenant_id, id, min(depth) AS depth FROM above GROUP BY 1, 2, 3)
SELECT id, pairs.tenant_id, CASE WHEN depth = 1 THEN 1 ELSE 0 END, agent_id, model, coalesce(deployment, ''), coalesce(prompt, ''), tags,
    sum(1), sum(CASE WHEN outcome <> 'ok' THEN 1 ELSE 0 END), sum(cache_hit), sum(prompt_tokens),
    sum(cached_tokens), sum(completion_tokens), sum(CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END),
    coalesce(sum(cost_pico / 1000000), 0), coalesce(sum(cost_pico % 1000000), 0),
    coalesce(sum(CASE WHEN cost_source = 'estimated' THEN cost_pico END / 1000000), 0),
    coalesce(sum(CASE WHEN cost_source = 'estimated' THEN cost_pico END % 1000000), 0),
    coalesce(sum(saved_pico / 1000000), 0), coalesce(sum(saved_pico % 1000000), 0)
FROM pairs JOIN calls ON calls.task_id = pairs.task_id AND calls.tenant_id = pairs.tenant_id
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;

-- What is inserted here adds a task with all below it to those above it, or with a sign of -1 takes it away; a call too.
CREATE VIEW task_below_changes AS
SELECT 1 AS sign, NULL AS parent_task_id, NULL AS tenant_id, NULL AS task_id WHERE 1 = 0;
CREATE TRIGGER task_below_changed INSTEAD OF INSERT ON task_below_changes BEGIN
    INSERT INTO tasks_below
        SELECT id, new.tenant_id, new.sign * (1 + own.below), above.depth + own.depth
        FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT new.parent_task_id, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = new.tenant_id WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above CROSS JOIN (
            SELECT coalesce(max(below), 0) AS below, coalesce(max(depth), 0) AS depth
            FROM tasks_below WHERE task_id = new.task_id AND tenant_id = new.tenant_id
        ) AS own WHERE 1 = 1
        ON CONFLICT (task_id, tenant_id) DO UPDATE SET below = below + excluded.below,
        depth = max(depth, excluded.depth);
    INSERT INTO calls_below
        SELECT id, new.tenant_id, CASE WHEN own = 1 AND depth = 1 THEN 1 ELSE 0 END, agent_id, model, deployment, prompt, tags,
        new.sign * sum(calls), new.sign * sum(failed), new.sign * sum(cache_hits), new.sign * sum(prompt_tokens), new.sign * sum(cached_tokens),
        new.sign * sum(completion_tokens), new.sign * sum(unpriced), new.sign * sum(cost_millions), new.sign * sum(cost_rest), new.sign * sum(estimated_millions),
        new.sign * sum(estimated_rest), new.sign * sum(saved_millions), new.sign * sum(saved_rest)
        FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT new.parent_task_id, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = new.tenant_id WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above CROSS JOIN (
            SELECT 1 AS own, agent_id, model, coalesce(deployment, '') AS deployment, coalesce(prompt, '') AS prompt, tags,
            1 AS calls, CASE WHEN outcome <> 'ok' THEN 1 ELSE 0 END AS failed, cache_hit AS cache_hits,
            prompt_tokens AS prompt_tokens, cached_tokens AS cached_tokens,
            completion_tokens AS completion_tokens, CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END AS unpriced,
            coalesce(cost_pico / 1000000, 0) AS cost_millions, coalesce(cost_pico % 1000000, 0) AS cost_rest,
            coalesce(CASE WHEN cost_source = 'estimated' THEN cost_pico END / 1000000, 0) AS estimated_millions,
            coalesce(CASE WHEN cost_source = 'estimated' THEN cost_pico END % 1000000, 0) AS estimated_rest,
            coalesce(saved_pico / 1000000, 0) AS saved_millions, coalesce(saved_pico % 1000000, 0) AS saved_rest
            FROM calls WHERE task_id = new.task_id AND tenant_id = new.tenant_id
            UNION ALL SELECT 0, agent_id, model, deployment, prompt, tags, calls, failed, cache_hits, prompt_tokens, cached_tokens, completion_tokens, unpriced,
            cost_millions, cost_rest, estimated_millions, estimated_rest, saved_millions, saved_rest
            FROM calls_below WHERE task_id = new.task_id AND tenant_id = new.tenant_id
        ) AS made WHERE 1 = 1 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        ON CONFLICT (task_id, tenant_id, is_child, agent_id, model, deployment, prompt, tags) DO UPDATE SET
        calls = calls + excluded.calls, failed = failed + excluded.failed,
        cache_hits = cache_hits + excluded.cache_hits,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        unpriced = unpriced + excluded.unpriced,
        cost_millions = cost_millions + excluded.cost_millions,
        cost_rest = cost_rest + excluded.cost_rest,
        estimated_millions = estimated_millions + excluded.estimated_millions,
        estimated_rest = estimated_rest + excluded.estimated_rest,
        saved_millions = saved_millions + excluded.saved_millions,
        saved_rest = saved_rest + excluded.saved_rest;
    DELETE FROM tasks_below WHERE new.sign < 0 AND tenant_id = new.tenant_id AND below = 0 AND task_id IN (SELECT id FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT new.parent_task_id, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = new.tenant_id WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above);
    DELETE FROM calls_below WHERE new.sign < 0 AND tenant_id = new.tenant_id AND calls = 0 AND task_id IN (SELECT id FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT new.parent_task_id, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = new.tenant_id WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above);
END;
CREATE VIEW call_below_changes AS
SELECT 1 AS sign, NULL AS parent_task_id, NULL AS tenant_id, NULL AS seq WHERE 1 = 0;
CREATE TRIGGER call_below_changed INSTEAD OF INSERT ON call_below_changes BEGIN
    INSERT INTO calls_below
        SELECT id, new.tenant_id, CASE WHEN own = 1 AND depth = 1 THEN 1 ELSE 0 END, agent_id, model, deployment, prompt, tags,
        new.sign * sum(calls), new.sign * sum(failed), new.sign * sum(cache_hits), new.sign * sum(prompt_tokens), new.sign * sum(cached_tokens),
        new.sign * sum(completion_tokens), new.sign * sum(unpriced), new.sign * sum(cost_millions), new.sign * sum(cost_rest), new.sign * sum(estimated_millions),
        new.sign * sum(estimated_rest), new.sign * sum(saved_millions), new.sign * sum(saved_rest)
        FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT new.parent_task_id, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = new.tenant_id WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above CROSS JOIN (
            SELECT 1 AS own, agent_id, model, coalesce(deployment, '') AS deployment, coalesce(prompt, '') AS prompt, tags,
            1 AS calls, CASE WHEN outcome <> 'ok' THEN 1 ELSE 0 END AS failed, cache_hit AS cache_hits,
            prompt_tokens AS prompt_tokens, cached_tokens AS cached_tokens,
            completion_tokens AS completion_tokens, CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END AS unpriced,
            coalesce(cost_pico / 1000000, 0) AS cost_millions, coalesce(cost_pico % 1000000, 0) AS cost_rest,
            coalesce(CASE WHEN cost_source = 'estimated' THEN cost_pico END / 1000000, 0) AS estimated_millions,
            coalesce(CASE WHEN cost_source = 'estimated' THEN cost_pico END % 1000000, 0) AS estimated_rest,
            coalesce(saved_pico / 1000000, 0) AS saved_millions, coalesce(saved_pico % 1000000, 0) AS saved_rest
            FROM calls WHERE seq = new.seq
        ) AS made WHERE 1 = 1 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        ON CONFLICT (task_id, tenant_id, is_child, agent_id, model, deployment, prompt, tags) DO UPDATE SET
        calls = calls + excluded.calls, failed = failed + excluded.failed,
        cache_hits = cache_hits + excluded.cache_hits,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        unpriced = unpriced + excluded.unpriced,
        cost_millions = cost_millions + excluded.cost_millions,
        cost_rest = cost_rest + excluded.cost_rest,
        estimated_millions = estimated_millions + excluded.estimated_millions,
        estimated_rest = estimated_rest + excluded.estimated_rest,
        saved_millions = saved_millions + excluded.saved_millions,
        saved_rest = saved_rest + excluded.saved_rest;
    DELETE FROM calls_below WHERE new.sign < 0 AND tenant_id = new.tenant_id AND calls = 0 AND task_id IN (SELECT id FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT new.parent_task_id, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = new.tenant_id WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above);
END;

CREATE TRIGGER task_below_inserted AFTER INSERT ON tasks WHEN new.parent_task_id IS NOT NULL BEGIN
    INSERT INTO task_below_changes VALUES (1, new.parent_task_id, new.tenant_id, new.task_id);
END;
CREATE TRIGGER task_below_deleted AFTER DELETE ON tasks WHEN old.parent_task_id IS NOT NULL BEGIN
    INSERT INTO task_below_changes VALUES (-1, old.parent_task_id, old.tenant_id, old.task_id);
END;
CREATE TRIGGER task_below_moved AFTER UPDATE OF parent_task_id ON tasks
WHEN old.parent_task_id IS NOT new.parent_task_id BEGIN
    INSERT INTO task_below_changes SELECT -1, old.parent_task_id, old.tenant_id, old.task_id
    WHERE old.parent_task_id IS NOT NULL;
    INSERT INTO task_below_changes SELECT 1, new.parent_task_id, new.tenant_id, new.task_id
    WHERE new.parent_task_id IS NOT NULL;
END;
CREATE TRIGGER call_below_inserted AFTER INSERT ON calls WHEN new.task_id IS NOT NULL BEGIN
    INSERT INTO call_below_changes SELECT 1, parent_task_id, tenant_id, new.seq FROM tasks
    WHERE task_id = new.task_id AND tenant_id = new.tenant_id AND parent_task_id IS NOT NULL;
END;
CREATE TRIGGER call_below_deleted BEFORE DELETE ON calls WHEN old.task_id IS NOT NULL BEGIN
    INSERT INTO call_below_changes SELECT -1, parent_task_id, tenant_id, old.seq FROM tasks
    WHERE task_id = old.task_id AND tenant_id = old.tenant_id AND parent_task_id IS NOT NULL;
END;
