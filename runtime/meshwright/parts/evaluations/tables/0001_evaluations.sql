-- Evaluations: what was asked for, and how far they are.
CREATE TABLE evaluations (
    tenant_id TEXT NOT NULL,
    id TEXT NOT NULL,
    spec TEXT NOT NULL,                     -- JSON, without the texts of items
    items INTEGER NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,   -- unix seconds
    ended_at DOUBLE PRECISION,              -- NULL while it runs
    failed INTEGER,                         -- items, and
    cost_usd TEXT,                          -- dollars, once it has ended; NULL where a price is unknown
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX evaluations_by_time ON evaluations (tenant_id, created_at);
-- Their items: texts are contents, figures are not.
CREATE TABLE evaluation_items (
    tenant_id TEXT NOT NULL,
    evaluation_id TEXT NOT NULL,
    number INTEGER NOT NULL,                -- from 1
    texts TEXT,                             -- JSON; NULL once they are erased
    known TEXT NOT NULL,                    -- JSON: labels of people, the model of the author
    figures TEXT,                           -- JSON; NULL until the item is done
    PRIMARY KEY (tenant_id, evaluation_id, number)
);
-- The tasks whose contents an item holds: by them its texts are erased.
CREATE TABLE evaluation_tasks (
    tenant_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    evaluation_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, task_id, evaluation_id, number)
);
