-- What the embedded host keeps of its actors. Heads and records have row ids: in a table without, a row of
-- over a kilobyte takes a page of its own, and a task writes twice as much.
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE heads (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    last_turn TEXT NOT NULL,
    sent INTEGER NOT NULL,
    wake_at REAL,               -- unix seconds
    obliged INTEGER NOT NULL,
    seen TEXT,                  -- JSON, or NULL for none
    state BLOB NOT NULL,        -- JSON
    PRIMARY KEY (type, id)
);
CREATE INDEX heads_to_wake ON heads (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX heads_obliged ON heads (type, id) WHERE obliged;

-- Messages sent and not yet taken: inserted by the sender's commit, deleted by the receiver's.
CREATE TABLE mailbox (
    n INTEGER PRIMARY KEY,      -- the order of sending
    outside INTEGER NOT NULL,   -- whether it came from outside the process, and so may come again
    message BLOB NOT NULL       -- JSON
);

-- The last group that a process of its own has written, for the mesh that outlives that process.
CREATE TABLE last_group (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id BLOB NOT NULL,
    results BLOB NOT NULL       -- of its jobs, as marshal has them
);

CREATE TABLE records (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    stream TEXT NOT NULL,
    n INTEGER NOT NULL,
    value BLOB NOT NULL,        -- JSON
    PRIMARY KEY (type, id, stream, n)
);
