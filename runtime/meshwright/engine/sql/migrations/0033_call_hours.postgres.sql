-- The calls that have a row, in sums: see meshwright/money/task_costs.py. This was step 29, after which some
-- stores had 31 already: it makes again what is there.
CREATE TABLE IF NOT EXISTS call_hours (
    time DOUBLE PRECISION NOT NULL, -- unix seconds: when the hour begins in which the calls ended
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    model TEXT NOT NULL,
    deployment TEXT NOT NULL,       -- '' for none
    prompt TEXT NOT NULL,           -- '' for none
    tags TEXT NOT NULL,             -- as those of calls
    calls BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cache_hits BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,       -- calls whose cost is unknown
    cost_millions BIGINT,           -- picodollars in two parts; NULL where none was known, as the next
    cost_rest BIGINT,
    estimated_millions BIGINT,
    estimated_rest BIGINT,
    saved_millions BIGINT,
    saved_rest BIGINT,
    PRIMARY KEY (tenant_id, time, agent_id, model, deployment, prompt, tags)
);
CREATE INDEX IF NOT EXISTS call_hours_by_time ON call_hours (time);
CREATE INDEX IF NOT EXISTS call_hours_empty ON call_hours (calls) WHERE calls = 0;
CREATE INDEX IF NOT EXISTS calls_by_end ON calls (time);
DELETE FROM call_hours;
INSERT INTO call_hours
SELECT floor(time / 3600) * 3600, tenant_id, agent_id, model, coalesce(deployment, ''), coalesce(prompt, ''), tags,
    count(*), sum(CASE WHEN outcome <> 'ok' THEN 1 ELSE 0 END), sum(cache_hit), sum(prompt_tokens),
    sum(cached_tokens), sum(completion_tokens), sum(CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END),
    sum(cost_pico / 1000000), sum(cost_pico % 1000000),
    sum(CASE WHEN cost_source = 'estimated' THEN cost_pico / 1000000 END),
    sum(CASE WHEN cost_source = 'estimated' THEN cost_pico % 1000000 END),
    sum(saved_pico / 1000000), sum(saved_pico % 1000000)
FROM calls GROUP BY 1, 2, 3, 4, 5, 6, 7;
