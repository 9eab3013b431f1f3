-- Of each agent, made from events: how many of each type there were, and its last attempts.
CREATE TABLE agent_figures (
    agent_id TEXT PRIMARY KEY,  -- '' for events that name none
    last_seq INTEGER NOT NULL,
    counts TEXT NOT NULL,       -- JSON: a number for each type of event
    recent TEXT NOT NULL        -- JSON: [unix seconds, status, microseconds worked] of each, oldest first
) WITHOUT ROWID;
