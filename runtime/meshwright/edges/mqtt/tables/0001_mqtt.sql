-- The session of the MQTT edge at its broker, and the messages that the broker may deliver again.
CREATE TABLE mqtt_sessions (
    client_id TEXT PRIMARY KEY,
    broker TEXT NOT NULL,       -- its URL, without a password
    traits TEXT NOT NULL        -- JSON: how the broker delivers again, '' while that is not known
);
CREATE TABLE mqtt_deliveries (  -- messages that became tasks, and name neither a key nor a task
    client_id TEXT NOT NULL,
    n BIGINT NOT NULL,          -- the order in which they came
    digest TEXT NOT NULL,       -- of all that the sender wrote
    packet_id BIGINT NOT NULL,
    tenant_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    PRIMARY KEY (client_id, n)
);
