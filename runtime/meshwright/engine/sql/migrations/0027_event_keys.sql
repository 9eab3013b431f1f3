-- The full blocks that have a type, a topic, an agent or a tenant: see meshwright/engine/events/table.py.
CREATE TABLE event_keys (
    key TEXT NOT NULL,              -- the field and its value, cut off behind 200 characters
    block BIGINT NOT NULL,
    PRIMARY KEY (key, block)
);
CREATE INDEX event_blocks_by_time ON event_blocks (max_time, block);
INSERT INTO event_keys
WITH in_blocks AS (
    SELECT DISTINCT event_type, topic, agent_id, tenant_id, seq >> 11 AS block FROM events
    WHERE seq < (SELECT coalesce(max(block) + 1, 0) << 11 FROM event_blocks)
)
SELECT key, block FROM (
    SELECT substr('event_type=' || event_type, 1, 200) AS key, block FROM in_blocks
    UNION SELECT substr('topic=' || topic, 1, 200), block FROM in_blocks
    UNION SELECT substr('agent_id=' || agent_id, 1, 200), block FROM in_blocks
    UNION SELECT substr('tenant_id=' || tenant_id, 1, 200), block FROM in_blocks
) AS keys WHERE key IS NOT NULL;
