-- As those of SQLite: the columns are explained there.
ALTER TABLE memories
    ADD COLUMN kind TEXT NOT NULL DEFAULT 'fact',
    ADD COLUMN subject TEXT,
    ADD COLUMN status TEXT NOT NULL DEFAULT 'active',
    ADD COLUMN trust BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN step TEXT,
    ADD COLUMN expires_at DOUBLE PRECISION,
    ADD COLUMN superseded_by TEXT,
    ADD COLUMN approved_by TEXT,
    ADD COLUMN changed_by TEXT,
    ADD COLUMN changed_at DOUBLE PRECISION,
    ADD COLUMN previous TEXT,
    ADD COLUMN used BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN helped BIGINT NOT NULL DEFAULT 0;
CREATE INDEX memories_by_subject ON memories (owner, subject) WHERE subject IS NOT NULL;
CREATE INDEX memories_to_delete ON memories (status, changed_at) WHERE status = 'forgotten';
