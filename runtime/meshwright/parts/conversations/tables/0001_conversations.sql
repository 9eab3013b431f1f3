-- Conversations of OpenAI's API: each is the thread of its id.
CREATE TABLE conversations (
    tenant_id TEXT NOT NULL,
    id TEXT NOT NULL,
    requested_by TEXT NOT NULL,             -- who made it
    created_at DOUBLE PRECISION NOT NULL,   -- unix seconds
    metadata TEXT NOT NULL,                 -- JSON
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX conversations_of_callers ON conversations (tenant_id, requested_by);
-- Messages that clients have added; those of tasks are in the tasks.
CREATE TABLE conversation_items (
    tenant_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    id TEXT NOT NULL,
    place BIGINT NOT NULL,                  -- the order in which they were added
    created_at DOUBLE PRECISION NOT NULL,   -- unix seconds
    item TEXT NOT NULL,                     -- JSON
    PRIMARY KEY (tenant_id, conversation_id, id)
);
