-- Attempts that failed, by deployment; and sums of calls by deployment.
ALTER TABLE calls ADD COLUMN failed_at TEXT; -- JSON list of deployments, one for each; NULL for none

CREATE TABLE sums_by_deployment (
    seq BIGINT NOT NULL,
    time DOUBLE PRECISION NOT NULL,
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    model TEXT NOT NULL,
    deployment TEXT NOT NULL,       -- '' for none, and for calls that were summed up before
    prompt TEXT NOT NULL,
    tags TEXT NOT NULL,
    calls BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cache_hits BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    cost_millions BIGINT,
    cost_rest BIGINT,
    estimated_millions BIGINT,
    estimated_rest BIGINT,
    saved_millions BIGINT,
    saved_rest BIGINT,
    PRIMARY KEY (seq, time, tenant_id, agent_id, model, deployment, prompt, tags)
);
INSERT INTO sums_by_deployment
SELECT seq, time, tenant_id, agent_id, model, '', prompt, tags, calls, failed, cache_hits, prompt_tokens,
    cached_tokens, completion_tokens, unpriced, cost_millions, cost_rest, estimated_millions, estimated_rest,
    saved_millions, saved_rest
FROM call_sums;
DROP TABLE call_sums;
ALTER TABLE sums_by_deployment RENAME TO call_sums;
