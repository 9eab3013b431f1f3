-- Where the outcomes of tasks go, beside the event log from which they are sent.
CREATE TABLE reply_addresses (
    scheme TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    place BIGINT NOT NULL,      -- the order in which they were asked for
    address TEXT NOT NULL       -- JSON
);
CREATE INDEX reply_addresses_of_tasks ON reply_addresses (scheme, tenant_id, task_id);
CREATE TABLE reply_senders (
    scheme TEXT NOT NULL,
    scope TEXT NOT NULL,
    seq BIGINT NOT NULL,        -- of the event up to which all outcomes are sent, or are below
    owner TEXT NOT NULL,        -- the incarnation that sends
    PRIMARY KEY (scheme, scope)
);
CREATE TABLE unsent_replies (   -- outcomes that wait for another try
    scheme TEXT NOT NULL,
    scope TEXT NOT NULL,
    seq BIGINT NOT NULL,        -- of the event with the outcome
    address TEXT NOT NULL,      -- JSON
    tenant_id TEXT NOT NULL,
    document TEXT NOT NULL      -- JSON
);
CREATE INDEX unsent_replies_of_senders ON unsent_replies (scheme, scope, seq);
