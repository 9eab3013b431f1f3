-- The tasks below each task, and the calls of all of them in sums, so that a tree's costs are read at once.
CREATE TABLE tasks_below (
    task_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    below BIGINT NOT NULL,          -- tasks, at most 50 levels down
    depth BIGINT NOT NULL,          -- of the deepest that there was
    PRIMARY KEY (task_id, tenant_id)
);
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
);

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

-- The children of a task in their order.
DROP INDEX tasks_by_parent;
CREATE INDEX tasks_by_parent ON tasks (parent_task_id, seq) WHERE parent_task_id IS NOT NULL;

-- Adds a task with all below it to those above it, or with a sign of -1 takes it away.
CREATE FUNCTION mesh_count_task_below(own TEXT, sign BIGINT, parent TEXT, tenant TEXT, task TEXT) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE replace($q$
    INSERT INTO SCHEMA.tasks_below AS counted
        SELECT id, $2::TEXT, $4 * (1 + own.below), above.depth + own.depth
        FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT $1::TEXT, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN SCHEMA.tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = $2::TEXT WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above CROSS JOIN (
            SELECT coalesce(max(below), 0) AS below, coalesce(max(depth), 0) AS depth
            FROM SCHEMA.tasks_below WHERE task_id = $3::TEXT AND tenant_id = $2::TEXT
        ) AS own WHERE 1 = 1
        ON CONFLICT (task_id, tenant_id) DO UPDATE SET below = counted.below + excluded.below,
        depth = greatest(counted.depth, excluded.depth)
    $q$, 'SCHEMA.', own) USING parent, tenant, task, sign;
    EXECUTE replace($q$
    INSERT INTO SCHEMA.calls_below AS counted
        SELECT id, $2::TEXT, CASE WHEN own = 1 AND depth = 1 THEN 1 ELSE 0 END, agent_id, model, deployment, prompt, tags,
        $4 * sum(calls), $4 * sum(failed), $4 * sum(cache_hits), $4 * sum(prompt_tokens), $4 * sum(cached_tokens),
        $4 * sum(completion_tokens), $4 * sum(unpriced), $4 * sum(cost_millions), $4 * sum(cost_rest), $4 * sum(estimated_millions),
        $4 * sum(estimated_rest), $4 * sum(saved_millions), $4 * sum(saved_rest)
        FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT $1::TEXT, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN SCHEMA.tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = $2::TEXT WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above CROSS JOIN (
            SELECT 1 AS own, agent_id, model, coalesce(deployment, '') AS deployment, coalesce(prompt, '') AS prompt, tags,
            1 AS calls, CASE WHEN outcome <> 'ok' THEN 1 ELSE 0 END AS failed, cache_hit AS cache_hits,
            prompt_tokens AS prompt_tokens, cached_tokens AS cached_tokens,
            completion_tokens AS completion_tokens, CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END AS unpriced,
            coalesce(cost_pico / 1000000, 0) AS cost_millions, coalesce(cost_pico % 1000000, 0) AS cost_rest,
            coalesce(CASE WHEN cost_source = 'estimated' THEN cost_pico END / 1000000, 0) AS estimated_millions,
            coalesce(CASE WHEN cost_source = 'estimated' THEN cost_pico END % 1000000, 0) AS estimated_rest,
            coalesce(saved_pico / 1000000, 0) AS saved_millions, coalesce(saved_pico % 1000000, 0) AS saved_rest
            FROM SCHEMA.calls WHERE task_id = $3::TEXT AND tenant_id = $2::TEXT
            UNION ALL SELECT 0, agent_id, model, deployment, prompt, tags, calls, failed, cache_hits, prompt_tokens, cached_tokens, completion_tokens, unpriced,
            cost_millions, cost_rest, estimated_millions, estimated_rest, saved_millions, saved_rest
            FROM SCHEMA.calls_below WHERE task_id = $3::TEXT AND tenant_id = $2::TEXT
        ) AS made WHERE 1 = 1 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        ON CONFLICT (task_id, tenant_id, is_child, agent_id, model, deployment, prompt, tags) DO UPDATE SET
        calls = counted.calls + excluded.calls, failed = counted.failed + excluded.failed,
        cache_hits = counted.cache_hits + excluded.cache_hits,
        prompt_tokens = counted.prompt_tokens + excluded.prompt_tokens,
        cached_tokens = counted.cached_tokens + excluded.cached_tokens,
        completion_tokens = counted.completion_tokens + excluded.completion_tokens,
        unpriced = counted.unpriced + excluded.unpriced,
        cost_millions = counted.cost_millions + excluded.cost_millions,
        cost_rest = counted.cost_rest + excluded.cost_rest,
        estimated_millions = counted.estimated_millions + excluded.estimated_millions,
        estimated_rest = counted.estimated_rest + excluded.estimated_rest,
        saved_millions = counted.saved_millions + excluded.saved_millions,
        saved_rest = counted.saved_rest + excluded.saved_rest
    $q$, 'SCHEMA.', own) USING parent, tenant, task, sign;
    IF sign < 0 THEN
    EXECUTE replace($q$
    DELETE FROM SCHEMA.tasks_below WHERE tenant_id = $2::TEXT AND below = 0 AND task_id IN (SELECT id FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT $1::TEXT, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN SCHEMA.tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = $2::TEXT WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above)
    $q$, 'SCHEMA.', own) USING parent, tenant;
    EXECUTE replace($q$
    DELETE FROM SCHEMA.calls_below WHERE tenant_id = $2::TEXT AND calls = 0 AND task_id IN (SELECT id FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT $1::TEXT, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN SCHEMA.tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = $2::TEXT WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above)
    $q$, 'SCHEMA.', own) USING parent, tenant;
    END IF;
END $$;
CREATE FUNCTION mesh_task_below_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    own TEXT := format('%I.', TG_TABLE_SCHEMA);
    is_update BOOLEAN;
BEGIN
    IF TG_OP = 'INSERT' THEN
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %stasks WHERE task_id = $1 AND tenant_id = $2)', own)
            INTO is_update USING NEW.task_id, NEW.tenant_id;
        IF is_update THEN
            RETURN NEW;
        END IF;
    END IF;
    IF TG_OP <> 'INSERT' AND OLD.parent_task_id IS NOT NULL THEN
        EXECUTE format('SELECT %smesh_count_task_below($1, -1, $2, $3, $4)', own)
            USING own, OLD.parent_task_id, OLD.tenant_id, OLD.task_id;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.parent_task_id IS NOT NULL THEN
        EXECUTE format('SELECT %smesh_count_task_below($1, 1, $2, $3, $4)', own)
            USING own, NEW.parent_task_id, NEW.tenant_id, NEW.task_id;
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE FUNCTION mesh_call_below_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    own TEXT := format('%I.', TG_TABLE_SCHEMA);
    sign BIGINT := CASE WHEN TG_OP = 'INSERT' THEN 1 ELSE -1 END;
    call RECORD;
    parent TEXT;
BEGIN
    IF TG_OP = 'INSERT' THEN call := NEW; ELSE call := OLD; END IF;
    EXECUTE format('SELECT parent_task_id FROM %stasks WHERE task_id = $1 AND tenant_id = $2', own)
        INTO parent USING call.task_id, call.tenant_id;
    IF parent IS NULL THEN
        RETURN call;
    END IF;
    EXECUTE replace($q$
    INSERT INTO SCHEMA.calls_below AS counted
        SELECT id, $2::TEXT, CASE WHEN own = 1 AND depth = 1 THEN 1 ELSE 0 END, agent_id, model, deployment, prompt, tags,
        $4 * sum(calls), $4 * sum(failed), $4 * sum(cache_hits), $4 * sum(prompt_tokens), $4 * sum(cached_tokens),
        $4 * sum(completion_tokens), $4 * sum(unpriced), $4 * sum(cost_millions), $4 * sum(cost_rest), $4 * sum(estimated_millions),
        $4 * sum(estimated_rest), $4 * sum(saved_millions), $4 * sum(saved_rest)
        FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT $1::TEXT, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN SCHEMA.tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = $2::TEXT WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above CROSS JOIN (
            SELECT 1 AS own, agent_id, model, coalesce(deployment, '') AS deployment, coalesce(prompt, '') AS prompt, tags,
            1 AS calls, CASE WHEN outcome <> 'ok' THEN 1 ELSE 0 END AS failed, cache_hit AS cache_hits,
            prompt_tokens AS prompt_tokens, cached_tokens AS cached_tokens,
            completion_tokens AS completion_tokens, CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END AS unpriced,
            coalesce(cost_pico / 1000000, 0) AS cost_millions, coalesce(cost_pico % 1000000, 0) AS cost_rest,
            coalesce(CASE WHEN cost_source = 'estimated' THEN cost_pico END / 1000000, 0) AS estimated_millions,
            coalesce(CASE WHEN cost_source = 'estimated' THEN cost_pico END % 1000000, 0) AS estimated_rest,
            coalesce(saved_pico / 1000000, 0) AS saved_millions, coalesce(saved_pico % 1000000, 0) AS saved_rest
            FROM SCHEMA.calls WHERE seq = $3::BIGINT
        ) AS made WHERE 1 = 1 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        ON CONFLICT (task_id, tenant_id, is_child, agent_id, model, deployment, prompt, tags) DO UPDATE SET
        calls = counted.calls + excluded.calls, failed = counted.failed + excluded.failed,
        cache_hits = counted.cache_hits + excluded.cache_hits,
        prompt_tokens = counted.prompt_tokens + excluded.prompt_tokens,
        cached_tokens = counted.cached_tokens + excluded.cached_tokens,
        completion_tokens = counted.completion_tokens + excluded.completion_tokens,
        unpriced = counted.unpriced + excluded.unpriced,
        cost_millions = counted.cost_millions + excluded.cost_millions,
        cost_rest = counted.cost_rest + excluded.cost_rest,
        estimated_millions = counted.estimated_millions + excluded.estimated_millions,
        estimated_rest = counted.estimated_rest + excluded.estimated_rest,
        saved_millions = counted.saved_millions + excluded.saved_millions,
        saved_rest = counted.saved_rest + excluded.saved_rest
    $q$, 'SCHEMA.', own) USING parent, call.tenant_id, call.seq, sign;
    IF sign < 0 THEN
    EXECUTE replace($q$
    DELETE FROM SCHEMA.calls_below WHERE tenant_id = $2::TEXT AND calls = 0 AND task_id IN (SELECT id FROM (WITH RECURSIVE above (id, depth) AS (
            SELECT $1::TEXT, 1 UNION ALL
            SELECT tasks.parent_task_id, depth + 1 FROM above JOIN SCHEMA.tasks AS tasks ON tasks.task_id = above.id
            AND tasks.tenant_id = $2::TEXT WHERE tasks.parent_task_id IS NOT NULL AND depth < 50
        ) SELECT id, min(depth) AS depth FROM above GROUP BY id) AS above)
    $q$, 'SCHEMA.', own) USING parent, call.tenant_id;
    END IF;
    RETURN call;
END $$;

-- Before each row, since several that one statement writes may be above one another.
CREATE TRIGGER task_below_inserted BEFORE INSERT ON tasks FOR EACH ROW
    WHEN (NEW.parent_task_id IS NOT NULL) EXECUTE FUNCTION mesh_task_below_changed();
CREATE TRIGGER task_below_deleted BEFORE DELETE ON tasks FOR EACH ROW
    WHEN (OLD.parent_task_id IS NOT NULL) EXECUTE FUNCTION mesh_task_below_changed();
CREATE TRIGGER task_below_moved BEFORE UPDATE ON tasks FOR EACH ROW
    WHEN (OLD.parent_task_id IS DISTINCT FROM NEW.parent_task_id) EXECUTE FUNCTION mesh_task_below_changed();
CREATE TRIGGER call_below_inserted AFTER INSERT ON calls FOR EACH ROW
    WHEN (NEW.task_id IS NOT NULL) EXECUTE FUNCTION mesh_call_below_changed();
CREATE TRIGGER call_below_deleted BEFORE DELETE ON calls FOR EACH ROW
    WHEN (OLD.task_id IS NOT NULL) EXECUTE FUNCTION mesh_call_below_changed();
