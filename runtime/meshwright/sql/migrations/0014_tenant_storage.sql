-- What the events of each tenant take in the full blocks of the log, in bytes: see meshwright/events/table.py.
CREATE TABLE tenant_storage (tenant_id TEXT PRIMARY KEY, bytes BIGINT NOT NULL);
INSERT INTO tenant_storage
    SELECT tenant_id, sum(length(payload) + 256) FROM events
    WHERE (seq >> 11) IN (SELECT block FROM event_blocks) AND tenant_id IS NOT NULL GROUP BY tenant_id;
