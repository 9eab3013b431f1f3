-- What workers that share the database keep of their actors.
CREATE TABLE workers (
    incarnation TEXT PRIMARY KEY,
    lock_key BIGINT NOT NULL,           -- of the advisory lock that its connection holds while it lives
    expires_at TIMESTAMPTZ NOT NULL,    -- of its lease
    kinds TEXT NOT NULL                 -- JSON: the types of actors that run there
);

CREATE TABLE heads (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    revision BIGINT NOT NULL,           -- 0: nothing was committed yet
    last_turn TEXT NOT NULL,
    sent BIGINT NOT NULL,
    wake_at DOUBLE PRECISION,           -- unix seconds
    obliged SMALLINT NOT NULL,
    seen BYTEA,                         -- JSON, or NULL for none
    state BYTEA NOT NULL,               -- JSON
    owner TEXT NOT NULL,                -- the incarnation that recovers it and rings its alarm
    PRIMARY KEY (type, id)
);
CREATE INDEX heads_by_owner ON heads (owner, wake_at) WHERE obliged = 1 OR wake_at IS NOT NULL;

-- Messages sent and not yet taken: inserted by the sender's commit, deleted by the receiver's.
CREATE TABLE messages (
    n BIGINT PRIMARY KEY,               -- the order of sending
    type TEXT NOT NULL,                 -- of the actor that takes it
    id TEXT NOT NULL,
    owner TEXT NOT NULL,                -- the incarnation that delivers it
    fetched SMALLINT NOT NULL,          -- whether the owner has it
    remember SMALLINT NOT NULL,         -- whether it may arrive again
    message BYTEA NOT NULL              -- JSON
);
CREATE SEQUENCE message_numbers;
CREATE INDEX messages_by_owner ON messages (owner, fetched);
CREATE INDEX messages_by_actor ON messages (type, id);

CREATE TABLE records (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    stream TEXT NOT NULL,
    n BIGINT NOT NULL,
    value BYTEA NOT NULL,               -- JSON
    PRIMARY KEY (type, id, stream, n)
);
